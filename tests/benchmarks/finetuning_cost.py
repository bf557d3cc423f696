"""What staged fine-tuning costs, beside the other callbacks for it: work per step, per epoch and per transition.

    python -m tests.benchmarks.finetuning_cost

Everything is compared within one run of this script, on one thread. Calls and bytes are the same on every machine;
times are medians of rounds in turn, and are to be read as ratios.
"""
