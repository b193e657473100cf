"""The parts that all command lines share: how flags are read, and how a program ends."""
