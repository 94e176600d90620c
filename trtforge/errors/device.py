"""Errors of a device that is reached over SSH."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class HostKeyUnknown(TrtforgeError):
    """OpenSSH does not know the device's host key, and so does not connect.

    trtforge never skips this check: who answers could be another machine, which would get the network and give back
    an engine of its own. Log in once by `ssh` and compare the fingerprint that it shows with the device's
    (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`, typed there). Without a terminal, as in CI, put the key into
    `known_hosts` beforehand.
    """

    code = "DEV101"
    title = "host key not known"


class HostKeyChanged(TrtforgeError):
    """The device's host key is another one than `known_hosts` has.

    The device was set up anew, another one took its address, or somebody is in between. Ask whoever runs the device;
    only then remove the old key with the command in the message.
    """

    code = "DEV102"
    title = "host key has changed"


class LoginRefused(TrtforgeError):
    """The device did not let this user in.

    No key of the agent or of `~/.ssh` is in the device's `authorized_keys`, or the user's name is another. Passwords
    are asked for only in a terminal. What `ssh` accepts without trtforge works with it too.
    """

    code = "DEV103"
    title = "login refused"


class HostUnreachable(TrtforgeError):
    """No SSH connection to the device came about.

    Its name is not known, it is switched off, or nothing listens at the port. The message has OpenSSH's own words.
    """

    code = "DEV104"
    title = "device not reached"


class FarMissing(TrtforgeError):
    """There is no trtforge on the device, or none in the PATH of a login without a terminal.

    Install it there in an environment of its own, and name the program in the address:
    `--on ssh://USER@HOST/home/USER/venv/bin/trtforge`, or `/~/venv/bin/trtforge` for the home folder.
    """

    code = "DEV105"
    title = "trtforge is not on the device"


class FarDiffers(TrtforgeError):
    """The device has another version of trtforge than this machine.

    What a kit holds and what the two ends say to each other belongs to a version. Install the same one on both.
    """

    code = "DEV106"
    title = "another trtforge on the device"


class DeviceFull(TrtforgeError):
    """There is too little room on the device for the kit, what it unpacks to, and the engine made of it.

    Asked before anything is copied. The files lie in the device's cache of trtforge (TRTFORGE_CACHE there moves it)
    until the engine has been brought back.
    """

    code = "DEV107"
    title = "device out of disk"


class ConnectionLost(TrtforgeError):
    """The connection to the device was lost, and could not be made again.

    What had been started there goes on. The same command attaches to it again, or takes what is finished; a kit that
    was copied in part is copied from there on.
    """

    code = "DEV108"
    title = "connection lost"


class DeviceFailed(TrtforgeError):
    """The work on the device ended without a result.

    Its process died: the system ended it, usually because memory ran out, or it is a bug of trtforge. The message has
    the last lines of its log. It was started again once.
    """

    code = "DEV109"
    title = "the work on the device died"


class NotUnderstood(TrtforgeError):
    """What came from the device is not what was expected.

    The program at the path of the address is not trtforge, or files changed on their way. Nothing was published.
    """

    code = "DEV110"
    title = "answer of the device not understood"


class NoClient(TrtforgeError):
    """OpenSSH's client is not installed here, or what TRTFORGE_SSH names is not there.

    trtforge uses the system's `ssh`, so that your configuration, agent, jump hosts and known hosts are used as they
    are. On Debian and Ubuntu: `sudo apt-get install openssh-client`.
    """

    code = "DEV111"
    title = "no SSH client"
