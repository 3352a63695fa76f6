"""The Council server and its embedded engine."""

import os

# Threads that spin while they wait cost a server most of its speed as soon as anything else (a training) runs.
# Read once, when torch is first imported; whoever sets it decides.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
