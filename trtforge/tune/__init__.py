"""Which batch, memory and number of streams give the most on a device: what is measured, in which order, and kept.

Nothing here predicts. Whole-device rates are not the sum of rates alone, for all units read one DRAM; so parts are
measured alone to know which settings are worth a try, and together to know what they give.
"""
