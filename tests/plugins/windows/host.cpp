// The kernels of plugins/windows, compiled for this CPU, by name.
#include "host_shim.hpp"
//
#include "kernel.cu"

#define CASE(NAME) \
    if (std::strcmp(name, #NAME) == 0) return trtforge::launch(NAME, grid, block, parameters);

// The launch, to be run; empty where there is no such kernel.
std::function<void()> prepared(const char *name, dim3 grid, dim3 block, void *const *parameters) {
    CASE(slice_int8)
    CASE(slice_float16)
    CASE(slice_float32)
    CASE(quantize_int8)
    CASE(slice_int8_cdhw32)
    CASE(quantize_int8_cdhw32)
    CASE(accumulate_float16)
    CASE(accumulate_float32)
    return {};
}

extern "C" int launch(const char *name, const unsigned *shape, void *const *parameters) {
    const auto run = prepared(name, {shape[0], shape[1], shape[2]}, {shape[3], shape[4], shape[5]}, parameters);
    if (!run) return 1;
    run();
    return 0;
}
