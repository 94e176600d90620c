// A block of CUDA threads on a CPU, for tests: each thread is a fiber with its own stack, so that kernel.cu compiles
// and runs as it is, barriers included. Build with -ffp-contract=off, because __fmul_rn and __fadd_rn are never fused.
//
// A schedule says which fiber goes on, and when a copy_async writes: at once, or not before it is waited for. A barrier
// or a wait that is missing in the source gives other results under some schedule. Shared memory is filled with 0xA5
// before each block. ldmatrix counts the rows that lie in banks already taken.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))

extern "C" char __start_shared_memory[], __stop_shared_memory[];  // the linker's names for the section's bounds

struct uint2 {
    unsigned x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
};

inline dim3 threadIdx, blockIdx;

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __int2float_rn(int value) { return static_cast<float>(value); }
inline int __float2int_rn(float value) {  // half to even, saturating, NaN: 0
    if (std::isnan(value)) return 0;
    return static_cast<int>(std::fmin(std::fmax(std::nearbyint(static_cast<double>(value)), INT32_MIN), INT32_MAX));
}

namespace trtforge::res2::host {

// `order` 0: the lowest thread that can goes on; 1: the highest; 2 and above: a seed for chance.
struct Schedule {
    unsigned order;
    bool late_copies;
};

// What a lane brings to an operation of its warp.
struct Operands {
    const char *operation;
    int *out;
    const int *a;
    int b[2];
    const void *row;
};

struct Copy {
    void *to;
    const void *from;
    bool read;
};

struct Fiber {
    enum State { READY, IN_WARP, IN_BLOCK, DONE } state = READY;
    ucontext_t context{};
    std::unique_ptr<char[]> stack{new char[STACK]};
    Operands operands{};
    std::vector<std::vector<Copy>> groups;  // committed, in order, not yet waited for
    std::vector<Copy> open;
    static constexpr std::size_t STACK = 64 << 10;
};

[[noreturn]] inline void fail(const char *why) {
    std::fprintf(stderr, "res2 on the host: %s\n", why);
    std::abort();
}

class Block {
  public:
    Block(unsigned threads, Schedule schedule) : fibers_(threads), schedule_(schedule), chance_(schedule.order) {}

    // The kernel once by all threads of a block.
    void run(const std::function<void()> &kernel) {
        std::memset(__start_shared_memory, 0xA5, __stop_shared_memory - __start_shared_memory);
        kernel_ = &kernel;
        for (Fiber &fiber : fibers_) {
            fiber.state = Fiber::READY;
            fiber.groups.clear();
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = Fiber::STACK;
            fiber.context.uc_link = &scheduler_;
            makecontext(&fiber.context, &Block::begin, 0);
        }
        waiting_ = 0;
        while (step()) {}
        for (const Fiber &fiber : fibers_)
            if (fiber.state != Fiber::DONE) fail("threads wait at different places: they never go on");
    }

    void barrier() {
        if (++waiting_ < fibers_.size()) return stop(Fiber::IN_BLOCK);
        waiting_ = 0;
        for (Fiber &fiber : fibers_)
            if (fiber.state == Fiber::IN_BLOCK) fiber.state = Fiber::READY;
    }

    // The last lane of a warp to come does `work` for all 32.
    template <typename Work> void collective(const Operands &operands, Work work) {
        fibers_[now_].operands = operands;
        Fiber *const warp = &fibers_[now_ / 32 * 32];
        unsigned here = 1;
        for (unsigned lane = 0; lane < 32; ++lane) here += warp[lane].state == Fiber::IN_WARP;
        if (here < 32) return stop(Fiber::IN_WARP);
        for (unsigned lane = 0; lane < 32; ++lane) {
            if (warp[lane].operands.operation != operands.operation) fail("lanes of a warp are at other operations");
            warp[lane].state = Fiber::READY;
        }
        work(warp);
    }

    void copy(const Copy &copy) {
        if (schedule_.late_copies) {
            fibers_[now_].open.push_back(copy);
        } else {
            write(copy);
        }
    }

    void commit() {
        fibers_[now_].groups.push_back(std::move(fibers_[now_].open));
        fibers_[now_].open.clear();
    }

    void wait(std::size_t pending) {
        auto &groups = fibers_[now_].groups;
        while (groups.size() > pending) {
            for (const Copy &copy : groups.front()) write(copy);
            groups.erase(groups.begin());
        }
    }

    long conflicts = 0;  // of all blocks

  private:
    static void begin();

    static void write(const Copy &copy) {
        if (reinterpret_cast<std::uintptr_t>(copy.to) % 16 != 0) fail("copy_async is not to a multiple of 16 bytes");
        if (copy.read && reinterpret_cast<std::uintptr_t>(copy.from) % 16 != 0) fail("copy_async is not from one");
        copy.read ? std::memcpy(copy.to, copy.from, 16) : std::memset(copy.to, 0, 16);
    }

    // Lets the threads of one warp that can go on do so until they stop again; false when none can.
    bool step() {
        const unsigned warps = fibers_.size() / 32, skip = schedule_.order < 2 ? 0 : chance_() % warps;
        for (unsigned i = 0; i < warps; ++i) {
            const unsigned warp = schedule_.order == 1 ? warps - 1 - i : (i + skip) % warps;
            bool moved = false;
            for (unsigned lane = 0; lane < 32; ++lane) {
                const unsigned thread = warp * 32 + (schedule_.order == 1 ? 31 - lane : lane);
                if (fibers_[thread].state != Fiber::READY) continue;
                now_ = thread, threadIdx = {thread, 0, 0};
                swapcontext(&scheduler_, &fibers_[thread].context);
                moved = true;
            }
            if (moved) return true;
        }
        return false;
    }

    void stop(Fiber::State why) {
        Fiber &fiber = fibers_[now_];
        fiber.state = why;
        swapcontext(&fiber.context, &scheduler_);
    }

    std::vector<Fiber> fibers_;
    Schedule schedule_;
    std::minstd_rand chance_;
    const std::function<void()> *kernel_ = nullptr;
    ucontext_t scheduler_{};
    unsigned now_ = 0;
    std::size_t waiting_ = 0;
};

inline Block *block = nullptr;  // the one that runs

inline void Block::begin() {
    (*block->kernel_)();
    block->fibers_[block->now_].state = Fiber::DONE;
}

// The kernel over a grid. Returns how many rows of matrix loads met a bank that another row of theirs had taken.
inline long launch(dim3 grid, unsigned threads, Schedule schedule, const std::function<void()> &kernel) {
    Block one(threads, schedule);
    block = &one;
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) one.run(kernel);
    block = nullptr;
    return one.conflicts;
}

inline int byte_of(int word, int which) { return static_cast<signed char>(word >> (8 * which) & 0xff); }

}  // namespace trtforge::res2::host

inline void __syncthreads() { trtforge::res2::host::block->barrier(); }

namespace trtforge::res2 {

inline void load_matrices(int (&made)[4], const void *row) {
    host::block->collective({"ldmatrix", made, nullptr, {}, row}, [](host::Fiber *warp) {
        for (int matrix = 0; matrix < 4; ++matrix) {
            std::uintptr_t banks[8] = {};  // the row that lies in each 16 bytes of them
            for (int lane = 0; lane < 32; ++lane) {
                const char *from = static_cast<const char *>(warp[matrix * 8 + lane / 4].operands.row);
                std::memcpy(&warp[lane].operands.out[matrix], from + lane % 4 * 4, 4);
                const auto address = reinterpret_cast<std::uintptr_t>(from);
                if (address % 16 != 0) host::fail("a matrix row is not on a multiple of 16 bytes");
                std::uintptr_t &bank = banks[address / 16 % 8];
                if (bank != 0 && bank != address) ++host::block->conflicts;
                bank = address;
            }
        }
    });
}

// Register r of lane l holds, of a: row l / 4 + 8 * (r % 2), k from 4 * (l % 4) + 16 * (r / 2) on; of b: column l / 4,
// the same k with r for r / 2; of the sums: row l / 4 + 8 * (r / 2), column 2 * (l % 4) + r % 2.
inline void multiply_add(int (&sums)[4], const int (&a)[4], int b0, int b1) {
    host::block->collective({"mma", sums, a, {b0, b1}, nullptr}, [](host::Fiber *warp) {
        int left[16][32], right[8][32];
        for (int lane = 0; lane < 32; ++lane) {
            for (int r = 0; r < 4; ++r)
                for (int i = 0; i < 4; ++i)
                    left[lane / 4 + 8 * (r % 2)][lane % 4 * 4 + 16 * (r / 2) + i] =
                        host::byte_of(warp[lane].operands.a[r], i);
            for (int r = 0; r < 2; ++r)
                for (int i = 0; i < 4; ++i)
                    right[lane / 4][lane % 4 * 4 + 16 * r + i] = host::byte_of(warp[lane].operands.b[r], i);
        }
        for (int lane = 0; lane < 32; ++lane)
            for (int r = 0; r < 4; ++r) {
                const int *row = left[lane / 4 + 8 * (r / 2)], *column = right[lane % 4 * 2 + r % 2];
                int sum = 0;
                for (int k = 0; k < 32; ++k) sum += row[k] * column[k];
                warp[lane].operands.out[r] += sum;
            }
    });
}

inline void copy_async(void *to, const void *from, bool read) { host::block->copy({to, from, read}); }
inline void commit_copies() { host::block->commit(); }
template <int PENDING> void wait_copies() { host::block->wait(PENDING); }

inline unsigned packed(int first, int second, int third, int fourth) {
    unsigned word = 0;
    for (const int value : {fourth, third, second, first})
        word = word << 8 | (static_cast<unsigned>(value < -128 ? -128 : value > 127 ? 127 : value) & 0xff);
    return word;
}

}  // namespace trtforge::res2
