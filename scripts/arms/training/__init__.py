"""SFT and DPO: trainers, curves, checkpoints, gates."""
