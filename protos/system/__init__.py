"""What the stages measure of the machine and ask of it: its name, memory, and times of calls."""
