"""The training loop's shortcuts are exact: loss and gradients equal those of plain transformers."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from agent0 import fused, packing, qlora

PROMPT = [5, 6, 7, 8]  # the same opening in every row


def tiny_model(width: int = 32):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=width,
        intermediate_size=3 * width // 2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    return get_peft_model(LlamaForCausalLM(config), lora)


def random_rows(count: int) -> list[dict]:
    rows = []
    for _ in range(count):
        prompt = PROMPT + torch.randint(9, 97, (int(torch.randint(2, 6, ())),)).tolist()
        answer = torch.randint(9, 97, (int(torch.randint(1, 9, ())),)).tolist()
        labels = [-100] * len(prompt) + answer
        rows.append({"input_ids": prompt + answer, "labels": labels, "length": len(labels)})
    return rows


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_loss(model, rows: list[dict]) -> torch.Tensor:
    """Rows padded on the right, full logits: what transformers does by itself."""
    width = max(row["length"] for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (width - row["length"]) for row in rows])
    labels = torch.tensor([row["labels"] + [-100] * (width - row["length"]) for row in rows])
    mask = torch.tensor([[1] * row["length"] + [0] * (width - row["length"]) for row in rows])
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def our_loss(model, rows: list[dict], prefix: list[int] | None = None, attention=packing.BY_ROWS) -> torch.Tensor:
    batch = packing.packer(packing.common_prefix(rows) if prefix is None else prefix)(rows)
    trainer = SimpleNamespace(accelerator=SimpleNamespace(unwrap_model=lambda m: m))
    base = model.get_base_model()
    base.set_attn_implementation(attention)
    loss = qlora.AnswerTrainer.compute_loss(trainer, model, batch)
    base.set_attn_implementation("sdpa")
    return loss


def saved(folder, levels: int | None = None, width: int = 32):
    """A base model on disk, its weights as they are or of so many levels for each 32."""
    base = tiny_model(width).unload()
    for name, weight in base.named_parameters():
        if levels and name.endswith("_proj.weight"):
            weight.data = (weight.data * 40).round().clamp(-levels // 2, levels // 2 - 1) / 40
    base.save_pretrained(folder)
    return base.state_dict()["model.layers.1.mlp.up_proj.weight"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's type is known")
@pytest.mark.parametrize("quicker", ["float32", "bfloat16"])
def test_a_cpu_trains_in_what_it_multiplies_faster(monkeypatch, quicker):
    monkeypatch.setattr(qlora, "_product_seconds", lambda dtype: 1 if dtype == quicker else 2)
    assert qlora.choose_dtype() == quicker


def test_a_base_model_is_trained_in_nf4(tmp_path):
    weight = saved(tmp_path)
    trained = qlora.load_base(str(tmp_path), torch.float32).model.layers[1].mlp.up_proj.weight
    assert 0.02 < (trained - weight).norm() / weight.norm() < 0.4
    blocks = trained.flatten().view(-1, 64)  # NF4 has 16 levels for each 64 weights
    assert all(len(block.unique()) <= 16 for block in blocks)


def test_a_base_model_that_has_four_bits_is_not_rounded_again(tmp_path):
    weight = saved(tmp_path, 16)
    assert torch.equal(qlora.load_base(str(tmp_path), torch.float32).model.layers[1].mlp.up_proj.weight, weight)


def test_a_layer_in_nf4_computes_in_one_go_what_peft_computes_in_many(tmp_path):
    saved(tmp_path, width=128)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=nf4, dtype=torch.float32)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model, rows = get_peft_model(base, lora), random_rows(3)
    plain = our_loss(model, rows)
    plain.backward()
    expected = gradients(model)
    model.zero_grad()
    assert fused.fuse_adapters(model) == 6
    loss = our_loss(model, rows)
    loss.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [packing.BY_ROWS, "sdpa"])
@pytest.mark.parametrize("seed", range(10))
def test_loss_and_gradients_equal_plain_transformers_over_a_thousand_batches(seed, attention):
    model = tiny_model()
    torch.manual_seed(seed)
    for _ in range(100):
        check_parity(model, random_rows(int(torch.randint(1, 6, ()))), attention)


def check_parity(model, rows: list[dict], attention: str) -> None:
    model.zero_grad()
    plain_loss(model, rows).backward()
    plain = gradients(model)
    model.zero_grad()
    loss = our_loss(model, rows, attention=attention)
    loss.backward()
    assert loss.item() == pytest.approx(plain_loss(model, rows).item(), abs=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-5, rtol=1e-4)


def test_the_prefix_is_shared_by_all_and_leaves_each_row_a_prompt_token():
    rows = random_rows(6)
    prefix = packing.common_prefix(rows)
    assert prefix[: len(PROMPT)] == PROMPT
    identical = [rows[0], dict(rows[0])]
    assert len(packing.common_prefix(identical)) == rows[0]["labels"].count(-100) - 1


def test_no_row_sees_another():
    model = tiny_model()
    rows = random_rows(4)
    labels = [sum(label != -100 for label in row["labels"]) for row in rows]
    alone = [our_loss(model, [row], PROMPT).item() * count for row, count in zip(rows, labels, strict=True)]
    assert our_loss(model, rows).item() * sum(labels) == pytest.approx(sum(alone), rel=1e-4)


def test_replayed_rows_pull_back_to_what_the_model_says_without_its_adapter():
    model, rows = tiny_model(), random_rows(5)
    for row in rows[1::2]:
        row["replayed"] = True
    taught = sum(label != -100 for row in rows for label in row["labels"])
    expected = sum(plain_loss(model, [row]) * sum(label != -100 for label in row["labels"]) for row in rows[::2])
    for row in rows[1::2]:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad(), model.disable_adapter():
            usual = model(input_ids=ids).logits[0].softmax(1)
        strays = (usual * (usual.log() - model(input_ids=ids).logits[0].log_softmax(1))).sum(1)
        expected = expected + qlora.REPLAY_WEIGHT * strays[len(PROMPT) :].sum()
    model.zero_grad()
    (expected / taught).backward()
    plain = gradients(model)
    model.zero_grad()
    loss = our_loss(model, rows, PROMPT)
    loss.backward()
    assert loss.item() == pytest.approx((expected / taught).item(), rel=1e-4)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-5, rtol=1e-3)


def test_with_replay_alone_a_fresh_adapter_has_nothing_to_learn():
    model, rows = tiny_model(), [{**row, "replayed": True} for row in random_rows(3)]
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.zero_()
    loss = our_loss(model, rows)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert all(gradient.abs().max() < 1e-4 for gradient in gradients(model).values())


def test_weights_are_mixed_by_share(tmp_path):
    for name, value in (("before", 1.0), ("reached", 4.0)):
        (tmp_path / name).mkdir()
        save_file({"lora_A": torch.full((2, 3), value)}, tmp_path / name / "adapter_model.safetensors")
    qlora.mix(tmp_path / "reached", tmp_path / "before", 0.25)
    assert torch.equal(
        load_file(tmp_path / "reached" / "adapter_model.safetensors")["lora_A"], torch.full((2, 3), 3.25)
    )
    assert load_file(tmp_path / "before" / "adapter_model.safetensors")["lora_A"].max() == 1
