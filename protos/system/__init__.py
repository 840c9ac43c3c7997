"""What the stages measure of the machine and ask of it: its name, memory, huge pages, and times of calls."""
