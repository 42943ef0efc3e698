"""Small search spaces that the tests share."""

from nnunet_hypersegnas.space import SearchSpace

# Full resolution is the finest scale, as on data sets with four stages.
FULL_RESOLUTION = SearchSpace.from_stages(
    [[1, 1, 1]] + [[2, 2, 2]] * 3, [[3, 3, 3]] * 4, layers=6, channels=(4, 6, 8, 10)
)
# The stem takes the first stride (the DiNTS setting).
STEM_STRIDE = SearchSpace.from_stages(
    [[1, 1, 1]] + [[2, 2, 2]] * 3, [[3, 3, 3]] * 4, layers=5, channels=(4, 6, 8), n_scales=3
)
# Anisotropic strides and kernels, in 2D.
PLANE = SearchSpace.from_stages(
    [[1, 1], [1, 2], [2, 2], [2, 2], [2, 2]], [[3, 3], [1, 3], [3, 3], [3, 3], [3, 3]], layers=4, channels=(4, 6, 8, 10)
)
TINY = SearchSpace.from_stages([[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2, layers=2, channels=(4, 6))

# With a patch that fits each.
SPACES = [(FULL_RESOLUTION, (16, 24, 16)), (STEM_STRIDE, (16, 16, 16)), (PLANE, (32, 32))]
IDS = ["full resolution", "stem stride", "2d anisotropic"]
