"""ops/: what it watches is what the server exports, and what it starts is there."""

import configparser
import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from agent0 import command, ledger
from agent0.metrics import ServerMetrics
from agent0.settings import ROOT

OPS = ROOT / "ops"
WATCHING = ("alerts.yml", "alerts_test.yml", "grafana.json")


@pytest.fixture
def exported(home) -> set[str]:
    """The names of the series of a server that has answered, after a night."""
    metrics = ServerMetrics()
    metrics.observe("r1", "user", True, 0.1)
    ledger.append("gate", improvement=0.1, success=0.3)
    ledger.append("night", exit_code=0)
    return {line.partition(" ")[0].partition("{")[0] for line in metrics.text().decode().splitlines() if line[0] != "#"}


@pytest.mark.parametrize("name", WATCHING)
def test_each_metric_named_is_exported(exported, name):
    named = set(re.findall(r"autogen_\w+", (OPS / name).read_text()))
    assert named and named <= exported


def test_the_dashboard_shows_every_figure_of_the_nights(exported):
    shown = set(re.findall(r"autogen_\w+", (OPS / "grafana.json").read_text()))
    assert {name for name in exported if "request" not in name} <= shown
    panels = json.loads((OPS / "grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_each_alert_has_a_severity_a_summary_a_fix_and_a_test():
    (group,) = yaml.safe_load((OPS / "alerts.yml").read_text())["groups"]
    tested = (OPS / "alerts_test.yml").read_text()
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("warning", "error")
        assert set(rule["annotations"]) == {"summary", "fix"}
        assert re.search(rf"alertname: {rule['alert']}\n *exp_alerts:\n", tested), rule["alert"]


def test_prometheus_loads_the_rules_that_are_there():
    config = yaml.safe_load((OPS / "prometheus.yml").read_text())
    assert all((OPS / name).is_file() for name in config["rule_files"])


@pytest.mark.parametrize("path", [*OPS.glob("*.service"), *OPS.glob("*.timer")], ids=lambda path: path.name)
def test_units_start_what_is_there(path):
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str
    unit.read_string(path.read_text())
    if path.suffix == ".timer":
        assert (OPS / f"{path.stem}.service").is_file()
        return
    program, *arguments = unit["Service"]["ExecStart"].removeprefix("%h/autogen-council/").split()
    where = arguments[1].replace(".", "/") if arguments else program
    assert (ROOT / where).exists() and unit["Service"]["ExecStart"].startswith("%h/autogen-council/")
    fine = {str(code) for code in (command.NOTHING_TO_DO, command.ROLLED_BACK, command.REFUSED)}
    assert "night" not in path.name or set(unit["Service"]["SuccessExitStatus"].split()) == fine


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool in PATH (Debian's package: prometheus)")
@pytest.mark.parametrize(
    "what", ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"]
)
def test_prometheus_itself_takes_config_and_rules_and_fires_them(what):
    done = subprocess.run(["promtool", *what.split()], cwd=OPS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze in PATH")
def test_systemd_itself_takes_the_units(tmp_path):
    for path in [*OPS.glob("*.service"), *OPS.glob("*.timer")]:
        unit = re.sub(r"%h/autogen-council/\.venv/\S+", "/bin/true", path.read_text())
        (tmp_path / path.name).write_text(unit.replace("%h/autogen-council", str(ROOT)))
    units = sorted(map(str, tmp_path.iterdir()))
    command = ["systemd-analyze", "--user", "verify", *units]
    done = subprocess.run(command, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="no logrotate in PATH")
def test_logrotate_itself_takes_the_configuration(tmp_path):
    (tmp_path / "logs").mkdir()
    command = ["logrotate", "--debug", "--state", "logs/.logrotate", str(OPS / "logrotate.conf")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "error:" not in done.stderr, done.stderr


def test_the_ledger_is_never_rotated():
    assert re.findall(r'^"(\S+)" \{', (OPS / "logrotate.conf").read_text(), re.MULTILINE) == ["logs/server_*.log"]


def test_every_file_of_ops_is_named_in_readme():
    readme = (ROOT / "README.md").read_text()
    for path in OPS.iterdir():
        assert f"ops/{path.name}" in readme or path.name == "alerts_test.yml", path.name


def test_accelerate_reads_the_configuration_for_several_gpus():
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(OPS / "fsdp.yaml"))
    assert config.distributed_type == "FSDP" and config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
