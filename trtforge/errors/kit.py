"""Errors of kits, which carry a build to the device that finishes it."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class KitDamaged(TrtforgeError):
    """A kit is not what was written: truncated, a member missing, added or changed, or not a kit at all.

    A kit is a tar archive, compressed by zstd, whose first member, `kit.json`, lists every other with size and digest.
    Copy the kit again (in binary mode), or write it again with `trtforge build RECIPE --kit`.
    """

    code = "ENG131"
    title = "kit damaged"


class KitUnsafe(TrtforgeError):
    """A kit holds what no kit of trtforge has: a link, a device, a path that leaves the kit's folder, or a few bytes
    that would unpack to a full disk.

    Such an archive was made by something else, perhaps to overwrite files where it is unpacked. Nothing was written.
    Do not use it; get the kit from the machine that built it.
    """

    code = "ENG132"
    title = "kit is not safe to unpack"


class KitNotWritten(TrtforgeError):
    """A kit could not be written: the disk is full, the folder is not writable, or an input changed meanwhile.

    No partial kit was left behind. Name another place with `--out`, or make room.
    """

    code = "ENG133"
    title = "kit could not be written"


class KitNotSigned(TrtforgeError):
    """A signature was required of the kit, and it has none, or none by the keys that are trusted.

    `trtforge finish --require-signature PUBLIC_KEY` (or the variable TRTFORGE_REQUIRE_SIGNATURE, which a device can
    set for everyone) takes only kits that `trtforge build --sign PRIVATE_KEY` signed. The signature covers every byte
    of the kit's content; it was checked before anything was unpacked.
    """

    code = "ENG134"
    title = "kit lacks the required signature"


class KeyUnusable(TrtforgeError):
    """A key for signing kits, or for checking their signatures, cannot be used.

    Kits are signed with ed25519 keys: `ssh-keygen -t ed25519 -f kit_key` makes a pair. `--sign` takes the private
    key, `--require-signature` the public one (`kit_key.pub`); PEM files of OpenSSL work too. The passphrase of a
    private key is asked for in a terminal, and taken from TRTFORGE_SIGN_PASSPHRASE elsewhere.
    """

    code = "ENG135"
    title = "key cannot be used"


class KitForAnotherDevice(TrtforgeError):
    """The kit is for another device than the one that is to finish it.

    An engine is compiled for one compute capability and by one TensorRT, and calibration data in the kit fits the
    release that the recipe names. The message has both values. Finish the kit on its device, or build the recipe of
    this device's target.
    """

    code = "ENG136"
    title = "kit for another device"


class KitOfAnotherVersion(TrtforgeError):
    """The kit was written by another version of trtforge than the one that is to finish it.

    What a recipe's keys mean, and how its graph is compiled, belongs to a version; an engine made by two would be
    neither's. Install the version that the message names, or write the kit again.
    """

    code = "ENG137"
    title = "kit of another trtforge"


class KitNotOpened(TrtforgeError):
    """The path of a kit names no file that can be read: there is none, it is a folder, or it belongs to another user.

    `trtforge build RECIPE --kit` writes a kit, and says where: by default it is `engines/RECIPE/ENGINE.kit.tar.zst`.
    """

    code = "ENG138"
    title = "kit cannot be opened"
