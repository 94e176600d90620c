// The kernels of plugins/res2, compiled for this CPU, by name.
#include "host_shim.hpp"
//
#include "kernel.cu"

using Kernel = void(const int8 *, int8 *, const int8 *, const float *, int, int);

static Kernel *named(const char *name) {
#define CASE(NAME) \
    if (std::strcmp(name, #NAME) == 0) return NAME;
    CASE(res2_projection_64)
    CASE(res2_identity_64)
    CASE(res2_projection_32)
    CASE(res2_identity_32)
    return nullptr;
}

// Bank conflicts of the matrix loads; -1 where there is no such kernel.
extern "C" long launch(const char *name, const unsigned *grid, unsigned threads, unsigned order, int late_copies,
                       const int8 *x, int8 *y, const int8 *weights, const float *scales, int height, int width) {
    Kernel *const kernel = named(name);
    if (kernel == nullptr) return -1;
    return trtforge::res2::host::launch({grid[0], grid[1], grid[2]}, threads, {order, late_copies != 0},
                                        [=] { kernel(x, y, weights, scales, height, width); });
}
