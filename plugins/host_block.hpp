// A block of CUDA threads on a CPU, for tests: each thread that waits is a fiber with a stack of its own, so that
// kernel.cu runs as it is, barriers included. host_shim.hpp has CUDA's words on top of this.
//
// A schedule says which thread goes on, in which order blocks come, and when an asynchronous copy writes: at once, or
// not before it is waited for. A barrier or a wait that is missing in the source gives other results under some
// schedule. Shared memory is filled with 0xA5 before each block. What would hang or is undefined on a GPU ends the
// program: threads at different barriers, a warp's operation that not all lanes of its mask come to.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#define __shared__ static __attribute__((section("shared_memory")))

// The linker's names for the section's bounds; null where a plugin has nothing shared. Each plugin has its own, although
// all are loaded into one process.
extern "C" __attribute__((weak, visibility("hidden"))) char __start_shared_memory[], __stop_shared_memory[];

struct dim3 {
    unsigned x, y, z;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace trtforge::host {

// `order` 0: the lowest thread that can goes on; 1: the highest; 2 and above: a seed for chance. `without`: the source's
// line of a barrier that is taken out, to see whether that shows.
struct Schedule {
    unsigned order;
    bool late_copies;
    int without;
};

// What a lane brings to an operation of its warp.
struct Operands {
    const char *operation;
    unsigned mask;  // of the lanes that take part, this one among them
    void *out;
    const unsigned *a;
    unsigned b[2];
    const void *row;
};

struct Copy {
    void *to;
    const void *from;
    bool read;
};

struct Fiber {
    ucontext_t context{};
    std::unique_ptr<char[]> stack;
};

struct Thread {
    enum State { NEW, READY, IN_WARP, IN_BLOCK, DONE } state = NEW;
    dim3 index{};
    Fiber *fiber = nullptr;
    Operands operands{};
    std::vector<std::vector<Copy>> groups;  // committed, in order, not yet waited for
    std::vector<Copy> open;
};

[[noreturn]] inline void fail(const char *why) {
    std::fprintf(stderr, "CUDA on the host: %s\n", why);
    std::abort();
}

class Block {
  public:
    // The kernel over a grid. Returns how many rows of matrix loads met a bank that another row of theirs had taken.
    long launch(dim3 grid, dim3 shape, Schedule schedule, const std::function<void()> &kernel) {
        gridDim = grid, blockDim = shape;
        schedule_ = schedule, chance_ = schedule.order, kernel_ = &kernel, conflicts = 0;
        if (shape.x * shape.y * shape.z > 1024) fail("a block has more than 1024 threads");
        if (grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535) fail("a grid is larger than a GPU takes");
        threads_.assign(shape.x * shape.y * shape.z, {});
        std::vector<unsigned> order(1ull * grid.x * grid.y * grid.z);
        for (std::size_t i = 0; i < order.size(); ++i) {
            order[i] = schedule.order == 1 ? order.size() - 1 - i : i;
            if (schedule.order > 1) std::swap(order[i], order[chance() % (i + 1)]);
        }
        for (const unsigned at : order) {
            blockIdx = {at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y};
            run();
        }
        return conflicts;
    }

    // `line`: where it stands in the source.
    void barrier(int line) {
        if (line == schedule_.without) return;
        if (waiting_ > 0 && line != line_) fail("threads of a block wait at different barriers");
        line_ = line;
        if (++waiting_ < threads_.size()) return stop(Thread::IN_BLOCK);
        waiting_ = 0;
        for (Thread &thread : threads_) thread.state = Thread::READY;
    }

    // The last lane of the mask to come does `work` for all; it is given the warp's threads.
    template <typename Work> void collective(const Operands &operands, Work work) {
        threads_[now_].operands = operands;
        const unsigned first = now_ / 32 * 32;
        if (!(operands.mask >> (now_ - first) & 1)) fail("a lane is not in its own mask");
        const auto each_other = [&](auto look) {
            for (unsigned lane = 0; lane < 32; ++lane)
                if (operands.mask >> lane & 1 && first + lane != now_ && !look(first + lane)) return false;
            return true;
        };
        const bool all = each_other([&](unsigned at) {
            return at < threads_.size() && threads_[at].state == Thread::IN_WARP &&
                   threads_[at].operands.operation == operands.operation && threads_[at].operands.mask == operands.mask;
        });
        if (!all) return stop(Thread::IN_WARP);
        each_other([&](unsigned at) { return threads_[at].state = Thread::READY, true; });
        work(&threads_[first]);
    }

    void copy(const Copy &copy) { schedule_.late_copies ? threads_[now_].open.push_back(copy) : write(copy); }
    void commit() { threads_[now_].groups.push_back(std::exchange(threads_[now_].open, {})); }
    void wait(std::size_t pending) {
        auto &groups = threads_[now_].groups;
        while (groups.size() > pending) {
            for (const Copy &copy : groups.front()) write(copy);
            groups.erase(groups.begin());
        }
    }

    unsigned lane() const { return now_ % 32; }

    long conflicts = 0;

  private:
    void run() {
        std::memset(__start_shared_memory, 0xA5, __stop_shared_memory - __start_shared_memory);
        for (unsigned i = 0; i < threads_.size(); ++i) {
            Thread &thread = threads_[i];
            thread.state = Thread::NEW;
            thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
            thread.groups.clear(), thread.open.clear();
        }
        waiting_ = 0, place_ = 32;
        go_on(&main_);
        for (const Thread &thread : threads_)
            if (thread.state != Thread::DONE) fail("threads wait at different places: they never go on");
    }

    static void write(const Copy &copy) {
        if (reinterpret_cast<std::uintptr_t>(copy.to) % 16 != 0) fail("copy_async is not to a multiple of 16 bytes");
        if (copy.read && reinterpret_cast<std::uintptr_t>(copy.from) % 16 != 0) fail("copy_async is not from one");
        copy.read ? std::memcpy(copy.to, copy.from, 16) : std::memset(copy.to, 0, 16);
    }

    void stop(Thread::State why) {
        Thread &thread = threads_[now_];
        thread.state = why;
        go_on(thread.fiber);
    }

    // A fiber runs one thread after the other: the next new one when its own has ended.
    static void work();

    void ended() {
        Thread &thread = threads_[now_];
        thread.state = Thread::DONE;
        idle_.push_back(thread.fiber);
        go_on(thread.fiber);
    }

    void go_on(Fiber *from) {
        Fiber *to = choose() ? fiber_of(threads_[now_]) : &main_;
        if (to != from) swapcontext(&from->context, &to->context);
    }

    Fiber *fiber_of(Thread &thread) {
        threadIdx = thread.index;
        if (thread.state == Thread::NEW) {
            if (idle_.empty()) idle_.push_back(made());
            thread.fiber = idle_.back();
            idle_.pop_back();
        }
        return thread.fiber;
    }

    Fiber *made() {
        constexpr std::size_t STACK = 64 << 10;
        fibers_.push_back(std::make_unique<Fiber>());
        Fiber &fiber = *fibers_.back();
        fiber.stack.reset(new char[STACK]);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        makecontext(&fiber.context, &Block::work, 0);
        return &fiber;
    }

    // The next thread: those of one warp that can go on do so, one after the other, then those of another. False when
    // none can.
    bool choose() {
        do {
            for (; place_ < 32; ++place_) {
                const unsigned lane = schedule_.order == 1 ? 31 - place_ : (place_ + turn_) % 32;
                if (can_go_on(warp_ * 32 + lane)) return now_ = warp_ * 32 + lane, true;
            }
        } while (choose_warp());
        return false;
    }

    bool choose_warp() {
        const unsigned warps = (threads_.size() + 31) / 32, skip = schedule_.order < 2 ? 0 : chance() % warps;
        place_ = 0, turn_ = schedule_.order < 2 ? 0 : chance() % 32;
        for (unsigned i = 0; i < warps; ++i) {
            warp_ = schedule_.order == 1 ? warps - 1 - i : (i + skip) % warps;
            for (unsigned lane = 0; lane < 32; ++lane)
                if (can_go_on(warp_ * 32 + lane)) return true;
        }
        return false;
    }

    bool can_go_on(unsigned thread) const { return thread < threads_.size() && threads_[thread].state <= Thread::READY; }

    unsigned chance() { return chance_ = chance_ * 48271 % 0x7fffffff; }  // Lehmer's

    std::vector<Thread> threads_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::vector<Fiber *> idle_;
    Fiber main_;
    Schedule schedule_{};
    unsigned long long chance_ = 0;
    const std::function<void()> *kernel_ = nullptr;
    std::size_t waiting_ = 0;
    int line_ = 0;                             // of the barrier that they wait at
    unsigned now_ = 0;                         // the thread that runs
    unsigned warp_ = 0, place_ = 32, turn_ = 0;  // lanes of the warp that have had their turn; where they began
};

inline Block block;

inline void Block::work() {
    for (;;) {
        (*block.kernel_)();
        block.ended();
    }
}

}  // namespace trtforge::host
