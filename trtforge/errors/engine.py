"""Errors of the engine store and loading."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class StoreNotAFolder(TrtforgeError):
    """The path of the engine store, or of a folder inside it, is taken by something that is not a folder.

    An engine store is a folder of engines, each a folder of numbered versions: a Triton model repository. This
    happens when `--store` (or `store:` in the recipe) names a file, or when a file lies where an engine's folder
    belongs. Move the file away, or name another store.
    """

    code = "ENG101"
    title = "store path is not a folder"


class StoreReadOnly(TrtforgeError):
    """The engine store cannot be written: the file system is mounted read-only, or its owner is another user.

    Nothing was published. Engines in a read-only store can still be listed, inspected and run. Build into another
    folder with `--store`, or make this one writable.
    """

    code = "ENG102"
    title = "store is not writable"


class StoreFull(TrtforgeError):
    """The disk (or the quota) that holds the engine store is full.

    Nothing was published and what had been written of the new version was removed; older versions are as they
    were. A publish needs room for one more copy of the engine. Delete versions that are no longer served, or name
    a store on another disk with `--store`; the calibrated scales are cached, so the next build resumes there.
    """

    code = "ENG103"
    title = "store is full"


class StoreUnreadable(TrtforgeError):
    """The operating system refused to read or write the engine store for a reason other than space or permission.

    Usually a disk or network file system in trouble; the system's own words are in the message. Check the disk
    (`dmesg`, `df`), then run the command again: publishing is atomic, so nothing is half-written.
    """

    code = "ENG104"
    title = "store input/output error"


class NotServable(TrtforgeError):
    """An engine input or output has a data type that the serving configuration has no name for.

    `config.pbtxt` names every input and output with one of Triton's types (BOOL, UINT8..64, INT8..64, FP16, FP32,
    FP64, BF16, STRING). Engines whose borders are narrower than that (FP8, INT4) need a Cast at the border.
    """

    code = "ENG105"
    title = "data type has no serving name"


class EngineNotFound(TrtforgeError):
    """No engine lies where the reference points.

    An engine is named by its folder (`engines/a100/resnet50`), by a version of it (`engines/a100/resnet50/3`), or
    by its bare name (`resnet50`, `resnet50/3`, `a100/resnet50`), which is looked for in every store under
    `engines/`. The message lists the engines that are there and the names nearest to the one given.
    """

    code = "ENG106"
    title = "engine not found"


class EngineAmbiguous(TrtforgeError):
    """A bare engine name fits engines in more than one store.

    Each recipe publishes to a store of its own, so a network built for several targets has one engine in each. Give
    the store too, as in `a100/resnet50`.
    """

    code = "ENG107"
    title = "engine name is ambiguous"


class ManifestUnreadable(TrtforgeError):
    """A version's `manifest.json` is missing, is not JSON, or does not have the shape of a manifest.

    The manifest says what the engine was built from and for; without it nothing about the engine can be checked, so
    it is not loaded. A folder copied by hand without its manifest, or written by a newer trtforge, looks like this.
    Build the engine again, or copy the whole version folder again.
    """

    code = "ENG108"
    title = "manifest unreadable"


class ManifestChanged(TrtforgeError):
    """A manifest is not the one that was published: its seal does not match, or it lies in another engine's folder.

    The seal is a digest of everything else in the manifest. It finds edits and damage; it is no signature, since
    whoever can write the store can seal anew. What the manifest says decides whether an engine is loaded, so a
    changed one is refused. Build the engine again, or restore the version folder.
    """

    code = "ENG109"
    title = "manifest was changed"


class EngineFileMissing(TrtforgeError):
    """A file that the manifest lists is not in the version folder.

    Usually a copy that left something out (external weights, for one), or a deletion by hand. Copy the whole version
    folder again, or build the engine again.
    """

    code = "ENG110"
    title = "engine file missing"


class EngineFileChanged(TrtforgeError):
    """A file of an engine is not the one that was published: its size or its digest differs from the manifest.

    One flipped bit is enough. The file was not handed to any deserializer: a changed plan can crash it or run code.
    Transfers in text mode, truncated copies and tools that write their own header into a plan do this. Copy the
    version folder again, or build the engine again.
    """

    code = "ENG111"
    title = "engine file changed"


class BackendUnavailable(TrtforgeError):
    """The engine is sound, but what runs engines of its kind is not usable on this machine.

    A TensorRT plan needs an NVIDIA GPU with its driver and the matching runtime; an onnxruntime engine needs the
    onnxruntime package. `trtforge doctor` shows what works here and what would make the rest work.
    """

    code = "ENG112"
    title = "engine cannot run here"


class WrongCpu(TrtforgeError):
    """The engine was built for CPU instructions that this processor does not have.

    The form of an INT8 engine for the CPU is chosen, and checked, on the machine that builds it: a form that is exact
    with VNNI instructions can saturate silently without them. Build the recipe on this machine.
    """

    code = "ENG114"
    title = "engine was built for another CPU"


class HeaderContradictsManifest(TrtforgeError):
    """The engine's header does not say what its manifest says: another kind of plan, or other GPUs.

    The file is the published one, so the manifest was wrong when it was published, or both were replaced together.
    Build the engine again.
    """

    code = "ENG113"
    title = "engine header contradicts manifest"


class LockMissing(TrtforgeError):
    """`--locked` was given, but `trtforge.lock` does not exist or has no entry for this engine.

    The lock pins the digests of model, samples and recipe and the versions of tools that the last build used. It is
    written by a build without `--locked`; commit it beside the recipe. An engine of native TensorRT is also pinned to
    the kernel times it was built by, when it is compiled; a kit that a device finished by hand told the lock of none.
    """

    code = "ENG121"
    title = "nothing is locked"


class LockDrift(TrtforgeError):
    """`--locked` was given, and something differs from what `trtforge.lock` pins.

    The message lists each pin that drifted, old and new. Nothing was built. Install the pinned versions or restore
    the pinned files; or, when the change is wanted, build without `--locked`, which updates the lock.
    """

    code = "ENG122"
    title = "inputs drifted from the lock"


class LockUnreadable(TrtforgeError):
    """`trtforge.lock` is not JSON of the expected shape, or the operating system cannot read or write it.

    Usually a merge conflict left in the file. It is generated: resolve the conflict, or delete it and build without
    `--locked` to write it anew.
    """

    code = "ENG123"
    title = "lock file unreadable"


class TimingCacheGone(TrtforgeError):
    """`--locked` was given, and the timing cache that `trtforge.lock` pins is nowhere on this machine.

    An engine of native TensorRT keeps the kernel times it was built by as `timing.cache` in its version folder; the
    cache of trtforge (`TRTFORGE_CACHE`, folder `timing/`) has the newest of each target too. Only a file of the very
    digest counts.
    """

    code = "ENG124"
    title = "pinned timing cache is not here"


class NotAPlan(TrtforgeError):
    """The file is not an engine plan.

    A plan of TensorRT starts with ``ftrt`` (``ptrt`` in old releases), one of TensorRT-RTX with ``vtrt``; this file
    starts with neither. Usually a model was given where an engine is wanted, or a download saved an error page.
    """

    code = "ENG201"
    title = "not an engine plan"


class PlanSizeMismatch(TrtforgeError):
    """The plan is shorter or longer than its own header says.

    Usually a copy that was cut short. Nothing of it can be trusted; copy it again, or build it again.
    """

    code = "ENG202"
    title = "plan cut short or extended"


class UnknownPlanLayout(TrtforgeError):
    """The plan has the right first bytes, and behind them a layout this trtforge does not know.

    Usually it was written by a newer or much older TensorRT or TensorRT-RTX than the ones trtforge was tested with.
    """

    code = "ENG203"
    title = "plan header not known"


class WrappedPlan(TrtforgeError):
    """Something was written in front of the plan, so no TensorRT will accept the file.

    Some exporters (Ultralytics' for one) put a length and JSON metadata before the plan; TensorRT then complains
    that the magic tag does not match. trtforge keeps metadata in a file beside the plan. Cutting the prefix off, as
    the message shows, gives a file that loads.
    """

    code = "ENG204"
    title = "metadata in front of the plan"


class ForeignTensorRT(TrtforgeError):
    """The engine was written by another version of TensorRT or TensorRT-RTX than the one that would load it.

    Plans are not portable between versions. Rebuild the engine with the version that is here, or install the one
    that wrote it.
    """

    code = "ENG205"
    title = "plan of another TensorRT version"


class ForeignGpu(TrtforgeError):
    """The engine was compiled for GPUs of another compute capability than the one here.

    Compiled kernels fit one architecture. Build from the recipe of this device's target.
    """

    code = "ENG206"
    title = "plan for another GPU"


class CannotDeserialize(TrtforgeError):
    """The runtime refused the plan, or could not set it up on the GPU.

    The header was right, so the cause is usually the driver (too old), device memory (too little is free), or a
    plugin that is not registered. The runtime's own words are in the message.
    """

    code = "ENG207"
    title = "the runtime refused the plan"


class WrongFeed(TrtforgeError):
    """The arrays given to a loaded engine do not fit its inputs.

    An engine is compiled for exact names, shapes and dtypes; trtforge does not convert silently.
    """

    code = "ENG208"
    title = "arrays do not fit the engine's inputs"


class ExecutionFailed(TrtforgeError):
    """The GPU runtime reported an error while the engine ran.

    The runtime's own words are in the message. After an illegal memory access the whole process's GPU context is
    lost and a new process is needed.
    """

    code = "ENG209"
    title = "the engine failed while running"


class SessionRefused(TrtforgeError):
    """onnxruntime could not load an engine that trtforge built.

    The file is the published one, so the cause is usually another version of onnxruntime than the one the engine was
    built with, or too little memory. The message holds onnxruntime's own words.
    """

    code = "ENG301"
    title = "onnxruntime refused the engine"


class SessionFailed(TrtforgeError):
    """onnxruntime reported an error while the engine ran.

    The inputs had the right names, shapes and types; a value in them is one the graph cannot
    use (an index beyond its table, such as a token id of another vocabulary), or memory ran out. The message names the
    sample and holds onnxruntime's own words.
    """

    code = "ENG302"
    title = "onnxruntime failed while running"


class ReportIncomplete(TrtforgeError):
    """The engine's build report does not say how to load the engine.

    An INT8 engine for the CPU is only right in the form, and with the session options, that were checked when it was
    built. Without them it is not loaded.
    """

    code = "ENG303"
    title = "build report incomplete"


class PluginNotHere(TrtforgeError):
    """The engine was built with a plugin of trtforge that is not in this installation, or not in the same version.

    A plan holds a plugin's name and fields, not its code; the code comes from the trtforge that loads it, and its
    kernels from the files beside the engine. Both must be the ones the engine was built with, so the manifest names the
    digest of the kernels' source. Install that version, or build the engine again with this one.
    """

    code = "ENG115"
    title = "plugin of the engine is not here"
