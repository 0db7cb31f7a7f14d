"""The numbers that suit one machine and not another: time and memory, never results.

Measured as process time of one thread of a server's CPU, least of six rounds: ``E`` is
an encoder of attention and feed-forward part (8 patients, 100 positions, width 128,
float32), ``G`` a cell of plain gates (32 patients, 40 steps, width 96), ``L`` an
``nn.LSTM`` (16 patients, 60 steps, width 128). Differences below a tenth are noise.
Those who change one measure it again: none is asked for by a test.
"""

#: Elements of a block, 256 KiB of float32. Larger ones spend less on starting each
#: operation, smaller ones less on fetching what the last one left. E takes 94 ms with
#: 2¹³, 83 with 2¹⁴, 73 with 2¹⁵, 72 with 2¹⁶, 74 with 2¹⁷, 78 with 2¹⁸, 80 whole.
BLOCK = 1 << 16

#: Elements up to which a multiplier waits for others of its kind: G takes 150 ms where
#: none does, 145 with 2¹⁰, 129 with 2¹², 127 with 2¹⁴ and more, which hold more memory.
SMALL = BLOCK // 16

#: Elements that wait until all are worked out: so many that there is a block of a kind
#: where there are two kinds. Of 2¹² to 2¹⁸ none is clearly quicker for G.
WAITING = BLOCK // 2

#: The part of all rows from which on to take all is quicker than to pick those that a
#: gradient reaches: what is picked is copied once for each operand. Where E reads one
#: position, 0 (always all), 0.5 and 0.8 take 67, 57 and 63 ms, 1 (always picked) 70.
FEW_ROWS = 0.8

#: The same for matrix products, of which taking all costs less: 73 ms with 0, 56 to 75
#: with 0.25 to 0.8, as one position is far below all of these.
FEW_PRODUCTS = 0.5

#: Elements of an output that it is no use to let go: 16 KiB of float32, what a handful
#: of Python objects takes. Reckoned, not measured.
LITTLE = 1 << 12

#: Hidden units of a block of a scan's rows: some forty tensors of as many are alive at
#: once. L takes 171 ms with 2¹², 176 with 2¹³, 116 to 140 with 2¹⁴ to 2¹⁷.
PORTION = BLOCK // 2

#: How many times as many on other devices, where what counts is how many kernels are
#: started. Reckoned for devices with some hundred times a core's cache, not measured.
DEVICE_PORTIONS = 64

#: At least so many blocks for a scan, so that no more than a fifth of its factors is in
#: memory: L takes 140 ms with 1, 107 with 2, 111 with 5, 134 with 10, 148 with 20.
LEAST_PORTIONS = 5

#: Numbers that a layer may have for a batch and several references at a time. A net of
#: one hidden layer (64 patients, 20 values, 2,000 references) takes 1,751 ms one by one
#: and 1,110, 420, 263, 198, 162, 137 ms with 2¹⁴, 2¹⁶, 2¹⁷, 2¹⁸, 2¹⁹, 2²⁰ where it is
#: 64 wide; 2,147, 454, 155, 115, 96, 84, 79 where 16. More hold more memory.
TOGETHER = 1 << 18

#: The same for rows that are explained only for the pairs of their players: some forty
#: of E. Reckoned: with so many, arithmetic is most of the time.
ROWS = 1 << 21

#: Scores of fused attention that are worked out at once. 12 heads of 512 positions and
#: width 64 take 149, 121, 103, 91, 81, 90 and 106 ms with 2¹³ to 2¹⁹; 8 patients of 4
#: heads, 100 positions and width 32 take 23, 16, 14, 14, 13, 12 and 13. As its parts it
#: is quicker at no size: 130 and 16 ms; of 5 positions 1.3 ms, in one step 1.0.
SCORES = 2 * BLOCK
