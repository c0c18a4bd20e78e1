"""Offline measurements that no served version needs: horizons and variants beside the recipes."""

import os

# Before torch is loaded: threads that wait must not spin, as in `training.__main__`.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
