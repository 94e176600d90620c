"""Errors of volumes: scans that cannot be read or placed, truths that do not fit, results that cannot be written."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class VolumeMissing(TrtforgeError):
    """There is no file or folder of this name.

    Usually the data was not fetched, or a name was mistyped. A DICOM series is named by its folder.
    """

    code = "VOL101"
    title = "volume not found"


class VolumeUnsupported(TrtforgeError):
    """The file is of a kind that trtforge does not read as a volume.

    Read are NIfTI-1 and NIfTI-2 in one file (`.nii`, `.nii.gz`), and with SimpleITK (extra `itk`) `.nrrd`, `.nhdr`,
    `.mha`, `.mhd` and a folder with one DICOM series. Anything else, such as a NIfTI pair (`.hdr`, `.img`), must be
    converted; most viewers do that, and so do `SimpleITK.ReadImage` and `SimpleITK.WriteImage`.
    """

    code = "VOL102"
    title = "volume of an unsupported kind"


class VolumeUnreadable(TrtforgeError):
    """The file could not be decoded: it is truncated, damaged, or not what its name says.

    Most often a download or copy was cut off. The voxels of a `.gz` are held against its checksum, so a single changed
    bit is found. Fetch or write the file again.
    """

    code = "VOL103"
    title = "volume cannot be decoded"


class NotAVolume(TrtforgeError):
    """The file holds something else than one three-dimensional image: a plane, a series over time, or no voxel at all.

    A fourth axis is accepted when it has length 1. Split a series into its frames first, one file each.
    """

    code = "VOL104"
    title = "not a three-dimensional image"


class VoxelsUnsupported(TrtforgeError):
    """The voxels are complex numbers, colours or vectors, and a network input takes one real number for each.

    Take the magnitude, or one component, and save it as a file of its own.
    """

    code = "VOL105"
    title = "voxels are no real numbers"


class VoxelsNotFinite(TrtforgeError):
    """A voxel is NaN or infinite, or too large for float32.

    Resampling would spread it over its neighbours, and every window that holds one gives nonsense. The message names
    the first one, as an index into the voxels in the file's axis order. A common cause is NaN as background: replace
    it by a real value, for CT by -1024.
    """

    code = "VOL106"
    title = "volume holds NaN or infinity"


class SpacingImpossible(TrtforgeError):
    """The header gives a voxel a length of zero, a negative one, or NaN.

    Without the length of a voxel the scan cannot be brought to the network's grid. Take it from the original scan and
    write it into the header: `image.header.set_zooms((x, y, z))` of nibabel, with an affine that agrees.
    """

    code = "VOL107"
    title = "impossible voxel spacing"


class SpacingContradicted(TrtforgeError):
    """The header says two different lengths for the same voxel: its spacing and its affine differ by more than 1 %.

    Resampling goes by the spacing, position and direction by the affine, so one of them is wrong and nothing in the
    file says which. Usually a tool rescaled one and forgot the other. Find out from the original scan, then write
    both: `nibabel.Nifti1Image(voxels, affine)` derives the spacing from the affine.
    """

    code = "VOL108"
    title = "spacing and affine disagree"


class UnitUnsupported(TrtforgeError):
    """The header measures in metres or micrometres, or in a unit that does not exist; trtforge takes millimetres.

    Often the unit is wrong and the numbers are millimetres all the same: then only the field of the header must change.
    If the numbers are right, spacing and affine must be multiplied (metres by 1000, micrometres by 0.001) as well.
    """

    code = "VOL109"
    title = "not in millimetres"


class AffineSingular(TrtforgeError):
    """The affine does not give every voxel a place of its own: a column is zero, two point the same way, or it has NaN.

    Such a header cannot say which axis of the file runs from left to right, nor where a voxel lies. Restore the affine
    from the original scan.
    """

    code = "VOL110"
    title = "affine is singular"


class SeriesUnclear(TrtforgeError):
    """The folder does not hold exactly one DICOM series with evenly spaced slices.

    It has no DICOM file (folders in it are not searched), or files of several series, which must be kept in a folder
    each; or slices of the series are missing, and a volume with a gap would be analysed as if it had none.
    """

    code = "VOL111"
    title = "folder is not one DICOM series"


class VolumeTooLarge(TrtforgeError):
    """On the network's grid this volume would have more than 2**31 voxels.

    No scan of a person is that large: with voxels of 1 mm it would be 1.3 m in each direction. The spacing in the
    header is probably not in millimetres, or `spacing` in the recipe is far too fine.
    """

    code = "VOL112"
    title = "volume too large for the network's grid"


class PreparedOtherwise(TrtforgeError):
    """The scan went through `trtforge prepare` with other values than this engine's recipe says.

    A prepared file holds normalised values on the network's grid and is taken as it is, so what was done to it must be
    what the engine's `preprocess` asks for: spacing, clip, mean, std, padding and window. The header carries a digest
    of these. Give the original scan, which is preprocessed on the way.
    """

    code = "VOL113"
    title = "scan was prepared for another network"


# -- truth: labels that belong to a volume (VOL2xx) ----------------------------------------------------------------


class LabelsShape(TrtforgeError):
    """The labels have another shape than the volume they are for.

    Labels are compared voxel by voxel, so both must have the same axes in the same order. Usually they belong to
    another scan, or were exported after resampling or reorientation. Export them again on the grid of the scan.
    """

    code = "VOL201"
    title = "labels of another shape"


class LabelsGrid(TrtforgeError):
    """The labels have the shape of the volume but lie elsewhere in the patient.

    With equal grids every voxel of the labels lies within a twentieth of a voxel of its counterpart. A shift, a flipped
    axis or another spacing means that the labels were drawn on another scan, or that a tool rewrote one of the headers.
    If the voxels do correspond, copy the affine of the volume into the labels' header.
    """

    code = "VOL202"
    title = "labels on another grid"


class LabelsInvalid(TrtforgeError):
    """A label is not a whole number from 0 to 255.

    Fractions come from labels that were resampled with interpolation; resample them by nearest neighbour instead.
    Negative values often mark an ignored region: give it a class of its own, or 0. The message names the first bad
    voxel, as an index in the file's axis order.
    """

    code = "VOL203"
    title = "labels are no class numbers"


# -- results (VOL3xx) ----------------------------------------------------------------------------------------------


class OutputUnsupported(TrtforgeError):
    """Results are not written in this format.

    Labels and probabilities are written as `.nii`, `.nii.gz`, and with SimpleITK (extra `itk`) `.nrrd` and `.mha`;
    pictures as `.png`, pages as `.html`. This is found out before any work is done.
    """

    code = "VOL301"
    title = "unsupported output format"


# -- many scans (VOL4xx) -------------------------------------------------------------------------------------------


class CasesFailed(TrtforgeError):
    """Some scans of several could not be segmented; the others were, and their results are there.

    The summary names each with its own error. Mend or remove them and give the command again: what is finished is
    not done twice.
    """

    code = "VOL401"
    title = "some scans failed"


class SameCase(TrtforgeError):
    """Two scans would write the same results.

    Results are named after their scans: by the file's name, or by its folder where the files are all called alike.
    Scans of equal names from several places go to an `--out-dir` each.
    """

    code = "VOL402"
    title = "two scans of one name"


class CaseUnknown(TrtforgeError):
    """`--cases` names neither a case nor a set of cases.

    Cases of KiTS19 are called case_00000 to case_00299; `infer` are the 43 that MLPerf Inference measures, and
    `calibration` the 20 that it calibrates with. One of the 43, case_00400, is not in KiTS19: MLPerf counts case_00185
    twice, under both names, and so does `prepare`, from the files of case_00185.
    """

    code = "VOL403"
    title = "unknown cases"
