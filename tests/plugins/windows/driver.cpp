// libcuda.so.1 for tests: as much of the CUDA driver as cuda-core calls for what this project does on a GPU, on the
// CPU's memory and with kernels compiled for it: those of all libraries */kernels.so beside this one.
//
// A stream is a list of work that is run when someone waits for it. Memory comes filled with NaN and leaves so; it is
// there for another stream when the stream that it was taken in has been waited for. A kernel's first launch cannot be
// captured, because that loads it.
// TRTFORGE_TEST_SOC: the device is an SoC. What cuda-core asks for and is not here, it reports by name.
#include <dlfcn.h>
#include <glob.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#define API extern "C" int

namespace {

using Work = std::function<void()>;

struct Graph {
    std::vector<Work> work;
};

struct Stream {
    std::vector<Work> work;
    size_t done = 0;
    Graph *captured = nullptr;

    void put(Work next) { (captured != nullptr ? captured->work : work).push_back(std::move(next)); }
    void run(size_t until) {
        if (captured != nullptr) std::abort();  // waiting spoils a capture
        while (done < until) work[done++]();
    }
};

struct Event {
    bool timed;
    Stream *stream = nullptr;
    size_t after = 0;
    std::chrono::steady_clock::time_point reached{};
};

// Memory that was taken in a stream, as its work number `after`; null: at once.
struct Taken {
    size_t size;
    Stream *stream;
    size_t after;
};

// cuLaunchKernelEx's, up to the attributes.
struct Config {
    unsigned grid[3], block[3], shared;
    Stream *stream;
};

constexpr int SUCCESS = 0, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500,
              NOT_READY = 600, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900;
int context;
thread_local void *current = nullptr;  // each thread has to set its own
std::map<const void *, Taken> memory;
std::set<std::string> kernels;  // asked for by name; the name is the handle
std::set<const char *> loaded;  // launched outside of a capture

// As on_host.py has it.
using Prepare = void(const char *, const unsigned *, void *const *, unsigned, int, int, std::function<long()> &);

std::vector<Prepare *> libraries() {
    Dl_info here;
    dladdr(&context, &here);
    const std::string file = here.dli_fname, pattern = file.substr(0, file.rfind('/')) + "/*/kernels.so";
    glob_t found;
    glob(pattern.c_str(), 0, nullptr, &found);
    std::vector<Prepare *> made;
    for (size_t i = 0; i < found.gl_pathc; ++i) {
        void *library = dlopen(found.gl_pathv[i], RTLD_NOW | RTLD_LOCAL);
        if (library == nullptr) std::abort();
        made.push_back(reinterpret_cast<Prepare *>(dlsym(library, "prepare")));
    }
    return globfree(&found), made;
}

bool is_soc() { return std::getenv("TRTFORGE_TEST_SOC") != nullptr; }

void *allocated(size_t size, Stream *stream = nullptr) {
    const size_t whole = (size + 255) / 256 * 256;
    void *pointer = std::aligned_alloc(256, whole);
    std::memset(pointer, 0xFF, whole);
    if (stream != nullptr) stream->put([] {});
    memory[pointer] = {size, stream, stream == nullptr ? 0 : stream->work.size()};
    return pointer;
}

int freed(void *pointer) {
    const auto at = memory.find(pointer);
    if (at == memory.end()) return INVALID_HANDLE;
    std::memset(pointer, 0xFF, at->second.size);
    std::free(pointer);
    memory.erase(at);
    return SUCCESS;
}

// Whether a stream may touch what lies there.
bool is_there(const void *pointer, const Stream *stream) {
    const auto next = memory.upper_bound(pointer);
    if (next == memory.begin()) return true;
    const auto &[start, taken] = *std::prev(next);
    const bool inside = static_cast<const char *>(pointer) < static_cast<const char *>(start) + taken.size;
    return !inside || taken.stream == nullptr || taken.stream == stream || taken.stream->done >= taken.after;
}

int attribute(int which) {
    switch (which) {
    case 13: return 1410000;          // kHz
    case 16: return 108;              // SMs
    case 18: return is_soc();         // integrated
    case 19: return 1;                // can map host memory
    case 41: return 1;                // unified addressing
    case 75: return 8;                // compute capability, major
    case 76: return is_soc() ? 7 : 0; // minor
    case 115: return !is_soc();       // memory pools
    default: return 0;
    }
}

}  // namespace

API cuGetProcAddress_v2(const char *name, void **out, int, unsigned long long, int *status) {
    *out = dlsym(RTLD_DEFAULT, name);
    if (status != nullptr) *status = *out == nullptr;
    return *out == nullptr ? NOT_FOUND : SUCCESS;
}

// NVRTC looks for the driver's compiler cache here.
API cuGetExportTable(const void **, const void *) { return NOT_FOUND; }
API cuInit(unsigned) { return SUCCESS; }
API cuDriverGetVersion(int *version) { return *version = 12090, SUCCESS; }
API cuGetErrorName(int code, const char **name) { return *name = code == NOT_FOUND ? "NOT_FOUND" : "FAILED", SUCCESS; }
API cuGetErrorString(int, const char **text) { return *text = "as the tests' driver says", SUCCESS; }
API cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
API cuDeviceGet(int *device, int) { return *device = 0, SUCCESS; }
API cuDeviceGetAttribute(int *value, int which, int) { return *value = attribute(which), SUCCESS; }
API cuDeviceGetName(char *name, int size, int) { return std::strncpy(name, "this CPU", size), SUCCESS; }
API cuDevicePrimaryCtxRetain(void **out, int) { return *out = &context, SUCCESS; }
API cuDevicePrimaryCtxRelease(int) { return SUCCESS; }
API cuCtxGetCurrent(void **out) { return *out = current, SUCCESS; }
API cuCtxSetCurrent(void *given) { return current = given, SUCCESS; }
API cuCtxGetDevice(int *device) { return *device = 0, SUCCESS; }
API cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0, SUCCESS; }

API cuStreamCreateWithPriority(Stream **out, unsigned, int) { return *out = new Stream, SUCCESS; }
API cuStreamDestroy(Stream *) { return SUCCESS; }
API cuStreamSynchronize(Stream *stream) {
    if (current == nullptr) return INVALID_CONTEXT;
    return stream->run(stream->work.size()), SUCCESS;
}
API cuStreamIsCapturing(Stream *stream, int *status) { return *status = stream->captured != nullptr, SUCCESS; }
API cuStreamGetCtx(Stream *, void **out) { return *out = &context, SUCCESS; }
API cuEventCreate(Event **out, unsigned flags) { return *out = new Event{(flags & 2) == 0}, SUCCESS; }
API cuEventRecord(Event *event, Stream *stream) {
    stream->put([=] { event->reached = std::chrono::steady_clock::now(); });
    return event->stream = stream, event->after = stream->work.size(), SUCCESS;
}
API cuEventElapsedTime(float *milliseconds, Event *from, Event *to) {
    if (!from->timed || !to->timed) return INVALID_HANDLE;
    for (const Event *each : {from, to})
        if (each->stream == nullptr || each->stream->done < each->after) return NOT_READY;
    return *milliseconds = std::chrono::duration<float, std::milli>(to->reached - from->reached).count(), SUCCESS;
}
API cuEventSynchronize(Event *event) { return event->stream->run(event->after), SUCCESS; }
API cuEventDestroy(Event *) { return SUCCESS; }  // a stream may still come to it

API cuDeviceGetMemPool(void **pool, int) { return *pool = &context, SUCCESS; }
API cuMemPoolGetAttribute(void *, int, void *value) { return *static_cast<long long *>(value) = 0, SUCCESS; }
API cuMemPoolSetAttribute(void *, int, void *) { return SUCCESS; }
API cuMemAllocFromPoolAsync(void **out, size_t size, void *, Stream *stream) {
    return *out = allocated(size, stream), SUCCESS;
}
API cuMemFreeAsync(void *pointer, Stream *stream) {
    if (memory.count(pointer) == 0) return INVALID_HANDLE;
    return stream->put([=] { freed(pointer); }), SUCCESS;
}
API cuMemAlloc(void **out, size_t size) {
    if (current == nullptr) return INVALID_CONTEXT;
    return *out = allocated(size), SUCCESS;
}
API cuMemFree(void *pointer) { return freed(pointer); }
API cuMemAllocHost(void **out, size_t size) { return *out = allocated(size), SUCCESS; }
API cuMemFreeHost(void *pointer) { return freed(pointer); }
API cuMemcpyAsync(void *to, const void *from, size_t size, Stream *stream) {
    if (!is_there(to, stream) || !is_there(from, stream)) return ILLEGAL_ADDRESS;
    return stream->put([=] { std::memcpy(to, from, size); }), SUCCESS;
}
API cuMemsetD8Async(void *at, unsigned char value, size_t count, Stream *stream) {
    if (!is_there(at, stream)) return ILLEGAL_ADDRESS;
    return stream->put([=] { std::memset(at, value, count); }), SUCCESS;
}

API cuLibraryLoadData(void **out, const void *code, void *, void *, unsigned, void *, void *, unsigned) {
    if (std::memcmp(code, "\x7f" "ELF", 4) != 0) return INVALID_IMAGE;
    return *out = &context, SUCCESS;
}
API cuLibraryGetKernel(void **out, void *, const char *name) {
    return *out = const_cast<char *>(kernels.insert(name).first->c_str()), SUCCESS;
}
API cuLibraryUnload(void *) { return SUCCESS; }
API cuLaunchKernelEx(const Config *config, const char *kernel, void **parameters, void **) {
    static const std::vector<Prepare *> all = libraries();
    unsigned shape[6];
    std::memcpy(shape, config->grid, sizeof shape);  // grid, then block
    std::function<long()> launch;
    for (Prepare *prepare : all) prepare(kernel, shape, parameters, 7, 1, 0, launch);
    if (!launch) return NOT_FOUND;
    if (config->stream->captured == nullptr) loaded.insert(kernel);
    if (loaded.count(kernel) == 0) return CAPTURE_UNSUPPORTED;
    return config->stream->put([=] { launch(); }), SUCCESS;
}

API cuStreamBeginCapture(Stream *stream, int) { return stream->captured = new Graph, SUCCESS; }
API cuStreamEndCapture(Stream *stream, Graph **out) {
    *out = stream->captured;
    return stream->captured = nullptr, SUCCESS;
}
API cuStreamGetCaptureInfo(Stream *stream, int *status, unsigned long long *id, Graph **graph, void *, void *, void *) {
    *status = stream->captured != nullptr;
    if (id != nullptr) *id = 1;
    if (graph != nullptr) *graph = stream->captured;
    return SUCCESS;
}
API cuGraphInstantiateWithParams(Graph **out, Graph *graph, int *parameters) {
    parameters[6] = SUCCESS;
    return *out = graph, SUCCESS;
}
API cuGraphLaunch(Graph *graph, Stream *stream) {
    for (const Work &work : graph->work) stream->put(work);
    return SUCCESS;
}
API cuGraphDestroy(Graph *) { return SUCCESS; }
API cuGraphExecDestroy(Graph *) { return SUCCESS; }
API cuUserObjectCreate(void **out, void *, void *, unsigned, unsigned) { return *out = &context, SUCCESS; }
API cuUserObjectRelease(void *, unsigned) { return SUCCESS; }
API cuGraphRetainUserObject(Graph *, void *, unsigned, unsigned) { return SUCCESS; }
API cuGraphReleaseUserObject(Graph *, void *, unsigned) { return SUCCESS; }

// Work of the tests' own in a stream.
API test_enqueue(Stream *stream, void (*work)()) { return stream->put(work), SUCCESS; }
