"""Where runs are carried out: processes of this machine, tasks of a Ray cluster, or jobs of SLURM."""
