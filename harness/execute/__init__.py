"""How a plan is carried out: executors call ``run_one`` for every job, wherever they like."""
