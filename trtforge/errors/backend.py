"""Errors of compiling."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class SmNotSupported(TrtforgeError):
    """TensorRT-RTX has no code generator for the target's GPU.

    Ahead of time it compiles for compute capability 8.0 (A100, A30), 8.6 (A2, A10, A40), 8.9 (L4, L40), 12.0 and
    12.1; for 7.5 (T4) only float engines, because INT8 layers silently fall back to float there. It has none for
    Orin (8.7), Xavier (7.2) or Hopper (9.0): those are built by native TensorRT on the device.
    """

    code = "BLD201"
    title = "GPU not supported by TensorRT-RTX"


class RtxRequestRefused(TrtforgeError):
    """The recipe asks for something this compiler does not have.

    TensorRT-RTX has no DLA, takes and returns tensors in the plain linear layout only, and is strongly typed: the
    precision is what the graph says. The message names the field of the recipe to change.
    """

    code = "BLD202"
    title = "recipe asks for what TensorRT-RTX lacks"


class ParserRefused(TrtforgeError):
    """The compiler's ONNX parser did not accept the graph.

    Usually an operator it lacks, or tensors of two types meeting in one node. The message gives the node and the
    parser's own words.
    """

    code = "BLD203"
    title = "ONNX parser refused the graph"


class CompilerRefused(TrtforgeError):
    """The compiler accepted the graph and could not turn it into an engine.

    The reason is the compiler's own; where it is a known one the message says what it means and what to change.
    """

    code = "BLD204"
    title = "compiler could not build the engine"


class CompilerDied(TrtforgeError):
    """The compiler's process ended without an answer.

    It runs in a process of its own because it can abort on some graphs (a plugin without its library, an
    assertion), and because the system ends it when memory runs out. The message names the signal and the last
    lines the compiler wrote.
    """

    code = "BLD205"
    title = "compiler process died"


class CompilerTimeout(TrtforgeError):
    """The compiler did not finish in the time allowed and was ended.

    Builds take seconds to minutes on an idle machine. Give more time by TRTFORGE_BUILD_TIMEOUT (seconds).
    """

    code = "BLD206"
    title = "compiler took too long"


class Int8NotKept(TrtforgeError):
    """Layers meant to run in INT8 were compiled in floating point.

    TensorRT-RTX does this without a warning, for example when an activation scale is an array of one element
    instead of a scalar. trtforge counts the INT8 layers in the finished plan and fails the build rather than hand
    over an engine that is slower than asked for.
    """

    code = "BLD207"
    title = "INT8 layers compiled in float"


class PlanNotAsAsked(TrtforgeError):
    """The finished plan's header does not say what was asked for.

    The GPU list, the version or the size differs. Usually the installed packages of TensorRT-RTX are of different
    versions.
    """

    code = "BLD208"
    title = "plan differs from the request"


class PlanNotReadable(TrtforgeError):
    """The layer list inside the plan could not be found, so the INT8 layers could not be counted.

    The list is undocumented. It is present in every plan of the TensorRT-RTX versions this trtforge was tested
    with, so its absence there is an error.
    """

    code = "BLD209"
    title = "no layer list in the plan"


class BadBuildTimeout(TrtforgeError):
    """TRTFORGE_BUILD_TIMEOUT is not a positive number of seconds.

    The variable bounds how long the compiler's process may take. Give it in seconds, without a unit
    (`TRTFORGE_BUILD_TIMEOUT=1800`), or unset it to get the default.
    """

    code = "BLD210"
    title = "bad TRTFORGE_BUILD_TIMEOUT"


class Fp16OutOfRange(TrtforgeError):
    """A weight is too large for half precision.

    float16 ends at 65504; a larger weight would become infinite and the engine's outputs with it. Quantize to INT8
    or keep fp32.
    """

    code = "BLD211"
    title = "weight beyond the range of fp16"


class PrecisionNotOffered(TrtforgeError):
    """The backend has no engine of the precision that the recipe asks for.

    onnxruntime computes in fp32 and INT8 on a CPU. It has no kernels for fp16 there: it would convert every tensor
    back and forth and be slower than fp32 without behaving like the fp16 of a GPU, so nothing would be learnt from it.
    """

    code = "BLD101"
    title = "backend lacks this precision"


class ScalesNeeded(TrtforgeError):
    """An INT8 engine was asked for without scales.

    The backend was called without a ScaleTable. Calibrate first, or take the scales of an earlier calibration.
    """

    code = "BLD102"
    title = "INT8 without scales"


class RuntimeRefusedGraph(TrtforgeError):
    """onnxruntime could not build a session of the graph, or could not run it on a probe.

    Usually an operator or an opset this version of onnxruntime lacks, or shapes that contradict each other at run
    time. The message holds onnxruntime's own words.
    """

    code = "BLD103"
    title = "onnxruntime refused the graph"


class ProbeNotFinite(TrtforgeError):
    """The FP32 model gave NaN or Inf for a sample, so nothing can be checked against it.

    Usually preprocessing that does not fit the model (a wrong mean, pixels of 0..255 where 0..1 is expected), or a
    model that is broken as exported.
    """

    code = "BLD104"
    title = "the FP32 model gives NaN or Inf"


class BadThreads(TrtforgeError):
    """TRTFORGE_THREADS is not a positive whole number.

    It sets how many threads onnxruntime uses for one run. Unset, it uses as many as the process has CPUs.
    """

    code = "BLD105"
    title = "bad TRTFORGE_THREADS"


class KernelNotCompiled(TrtforgeError):
    """NVIDIA's runtime compiler (NVRTC) did not turn a plugin's CUDA source into a binary for the GPU.

    Either the installed NVRTC is too old or too new to know the GPU's compute capability, or the source is wrong,
    which happens after an edit in `plugins/`. The message holds NVRTC's first complaint.
    """

    code = "BLD301"
    title = "CUDA kernel not compiled"


class NeedsDevice(TrtforgeError):
    """This engine can only be compiled on the device it is for.

    Native TensorRT compiles for the GPU or DLA in the machine it runs on, by timing kernels there. Everything that
    does not need the device was done here, and is in the kit. The device finishes it: over SSH by
    `trtforge build RECIPE --on ssh://USER@HOST`, or by `trtforge finish KIT`, typed there.
    """

    code = "KIT101"
    title = "the device must finish this"
