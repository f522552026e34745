"""Sweeps: runs of one recipe with other values of some keys, of which the best are searched.

    dimension   the values that a key may have          check     all that can be checked before the first trial
    block       the block `sweep` of a recipe file      trial     one run of a sweep, and what it is judged by
    study       what workers share, by Optuna           worker    runs trials until there are as many as asked for
    folder      the files of a sweep                    workers   several of them on this machine

Only `study` and `samplers` know Optuna.
"""
