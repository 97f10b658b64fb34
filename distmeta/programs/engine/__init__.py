"""The task engine: how a program's one-task code is mapped, recorded, compiled, tried and compared."""
