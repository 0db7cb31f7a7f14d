"""The numbers that suit one machine and not another: time and memory, never results."""

BLOCK = 1 << 16
SMALL = BLOCK // 16
WAITING = BLOCK // 2
FEW_ROWS = 0.8
FEW_PRODUCTS = 0.5
LITTLE = 1 << 12
PORTION = BLOCK // 2
DEVICE_PORTIONS = 64
LEAST_PORTIONS = 5
