"""How upsampling operators are computed: cases, the planner, and a file for each algorithm."""
