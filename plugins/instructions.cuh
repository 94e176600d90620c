// The instructions of a GPU that C++ has no words for; host_shim.hpp has the same names for a host compiler. Matrix
// products, matrix loads, asynchronous copies and packing are there from SM 8.0 on.
#pragma once

namespace trtforge {

using int8 = signed char;
using half = unsigned short;  // the bits of a float16

#if defined(__CUDACC__)
__device__ __forceinline__ float half_to_float(half bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ half float_to_half(float value) {
    half bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// Four integers, each clipped to [-128, 127], as bytes of a word, the first lowest.
__device__ __forceinline__ unsigned pack_s8(int a, int b, int c, int d) {
    unsigned upper, word;
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, 0;" : "=r"(upper) : "r"(d), "r"(c));
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(word) : "r"(b), "r"(a), "r"(upper));
    return word;
}

__device__ __forceinline__ unsigned shared_address(const void *pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Four 8 x 16 byte matrices out of shared memory: lane l gives the address of row l % 8 of matrix l / 8, and gets
// bytes 4 * (l % 4) to 4 * (l % 4) + 3 of row l / 4 of each. By all lanes of a warp.
__device__ __forceinline__ void load_matrices(unsigned (&made)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(made[0]), "=r"(made[1]), "=r"(made[2]), "=r"(made[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// sums += a * b, a 16 x 32, b 32 x 8, both int8, spread over a warp as the PTX manual has it for mma.m16n8k32.
// Volatile, so that it is not moved to where only some lanes want the sums.
__device__ __forceinline__ void mma_s8(int (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes into shared memory, zeros where `from` is not to be read; arrives at wait_copies.
__device__ __forceinline__ void copy_async(void *to, const void *from, bool read) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(read ? 16 : 0)
                 : "memory");
}

// Makes one group of this thread's copies since the last call.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all of this thread's groups but the newest PENDING are there.
template <int PENDING> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
#endif

}  // namespace trtforge
