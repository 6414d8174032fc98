"""Scans to dataset: a folder (or zip) of DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF or npy files, or a MedMNIST .npz.

  vitmed ingest scans/ --out data/chest --labels scans/labels.csv
  vitmed ingest ultrasound/ --out data/us --label-from folder --modality ultrasound --size 64,64
  vitmed ingest mri/ --out data/mri --modality MR --spacing 1,1,1 --size 96,96,96
  vitmed ingest pneumoniamnist.npz --out data/pneumonia
  vitmed ingest medmnist:bloodmnist_64 --out data/blood        downloads it, once; offline: --source bloodmnist_64.npz
  vitmed ingest nnUNet_raw/Dataset004_Hippocampus/ --out data/hippocampus --spacing auto --size auto
  vitmed ingest bids/ --out data/t1 --bids-suffix T1w --spacing 1,1,1 --size 160,192,160
  vitmed ingest scans/ --out data/chest --labels scans/labels.csv --append     new scans join, nobody is moved
  vitmed ingest studies.zip --out data/ct --modality CT --series thin_axial.toml --spacing 2,1,1 --size 96,224,224

labels.csv has a column path (relative to SOURCE; for a DICOM series its folder or a file of it) or id, optional
patient, site, split, mask, modality, study, series, view and timepoint, and label columns: words or whole numbers in
one column are classes, several columns of 0 and 1 are findings, other numbers are regression (whole numbers too with
--task regression), empty is missing (so are NA, nan, n/a and NULL). modality is that scan's, for files that do not say
it; --modality goes before it, and a scan whose header says another is left out. SOURCE may itself be such a CSV, a
manifest: its paths are relative to its folder, or absolute, and may lead anywhere. Scans are then named from the
manifest's folder, or from the innermost folder that holds all of them if some lie elsewhere: no name holds .. or a path
of this machine.

A mask has the value of each structure, 0 where there is none, and 255 where nobody has looked; a picture of 0 and 255 alone
is one structure, white on black. It is named by the column mask, or by its file beside the scan: 12_mask.png is that of
12.png (so are _seg, _label and _gt, in all formats but DICOM, and 12_mask_1.png is a second of the same scan).

DICOM files need no suffix. Those of a series are put together by their positions, apart by orientation, echo,
b-value and time point. Localisers, secondary captures (pictures of a screen), dose reports, structured documents
and plans are told apart and left out. A BINARY or LABELMAP segmentation (SEG) becomes the mask of the series whose images it
references, on that series' own grid by the nearest voxel; several of one series make its mask together. Segments of
one label are one structure throughout the set, with its value in datasheet.json; a scan with segments of different
labels that overlap is refused, and a segmentation that references nothing taken here is left out.

A raw folder of nnU-Net (dataset.json beside imagesTr; the Medical Segmentation Decathlon's too) is taken as such:
the channels of a case are one scan, labelsTr are the masks, and dataset.json names the structures. Cases of imagesTs
come in without masks and are split like all others. The modality is taken from channel_names where they say it
beyond doubt (CT, MRI, T1w, FLAIR ...), else give --modality. Patients are not known there: see --patient-pattern.

A BIDS folder (dataset_description.json beside sub-*/) is taken as such too: subjects are patients, sessions are
timepoints, the suffix of a scan (T1w, FLAIR, bold, ct ...) tells its modality and is its view. Where there are
several suffixes, --bids-suffix says which to take. derivatives/, field maps, phases and maps are left out. Its table
gives labels: --labels participants.tsv --label-column group

RULE.toml says which series of each study to take; every line but the first may be left out:

  format = 1
  take = 1                            # series of each study; 0: all that fit
  modality = ["ct"]
  orientation = ["axial"]             # axial, coronal, sagittal, unknown
  slice_thickness = [0.5, 3.0]        # millimetres from slice to slice, measured from their positions
  slices = [20, 2000]
  description = ["thorax", "lung"]    # regular expressions, any case: one must be found
  not_description = ["mip", "recon"]  # none may be found
  prefer = ["most slices", "thinnest", "largest matrix"]

A file with a fault (broken, NaN pixels, missing slices ...) is left out with its reason, told at the end. All
sizes and spacings are in array order: rows,columns for images and z,y,x for volumes.

Nothing that a header says of a person enters the dataset. A patient becomes a keyed hash (HMAC-SHA256), and so do
studies, series, the institution of a DICOM header, and any part of a path that holds such a value. The key lies in
a file of yours, made on first use; keep it apart from the dataset, for --append and `vitmed withdraw` need it.
Segments keep their labels, unless one holds the patient's name or a number: then that segmentation is left out.
Files whose names tell who the patient is in a way that no header does must be renamed first. Pixels are not
changed: likely burned-in text and faces in head MR are named in the datasheet.

Copies and near-duplicates (re-encoded, resized, of another brightness, mirrored) are looked for among all scans and
counted within and across splits; --dedupe brings what looks alike to one split. DATASET/datasheet.html shows it all.

An ingest that is interrupted (ctrl-C, SIGTERM, a kill, a full disk) goes on when the same command is given again, and
makes the same bytes. What it has read waits in DATASET.partial, for your eyes only and as large as the scans are
unpacked; headers are looked through again, and files that have changed are read again. Remove that folder to give up.
While it reads a zip or a MedMNIST npz, what is packed in it lies there too (pathmnist_224: 16 GB).

Sets that take one machine too long are read by the workers of an Apache Beam runner (pip install 'vitmed[beam]'); the
dataset is the same to the byte. SOURCE and DATASET must lie where all workers have them under one path, and workers must
run as you, for scans wait in DATASET.partial, which nobody else may read; headers are looked through, and shards written,
by the process that was started.
  vitmed ingest scans/ --out data/chest --beam DirectRunner --beam-option direct_num_workers=2     on this machine
  vitmed ingest /nfs/scans --out /nfs/chest --beam FlinkRunner --beam-option flink_master=HOST:8081 \\
      --beam-option environment_type=EXTERNAL --beam-option environment_config=localhost:50000     on a cluster
"""

HELP = "scans to dataset: DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF, npy or a MedMNIST npz"


def arguments(parser):
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of scans, a zip of one, a manifest CSV, a MedMNIST npz, or one scan; or medmnist:NAME[_64|_128|_224]",
    )
    parser.add_argument(
        "--source",
        dest="published",
        metavar="FILE",
        help="a copy of medmnist:NAME on this machine, where it cannot be downloaded; checked against its MD5",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="DATASET",
        help="the folder to make; it must not exist, unless --append",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE.csv",
        help="labels, patients, sites, splits, masks, ... by path or id (or participant_id); .tsv too",
    )
    parser.add_argument(
        "--label-column",
        metavar="NAME[,NAME]",
        help="the columns of --labels that are labels (default: label, or else all that are nothing else)",
    )
    parser.add_argument(
        "--label-from", metavar="folder", help="folder: the class is the first folder of a scan's path"
    )
    parser.add_argument(
        "--task",
        metavar="regression",
        help="regression: labels are numbers to predict, such as ages in whole years, which would be classes otherwise",
    )
    parser.add_argument(
        "--modality", metavar="M", help="xray, ct, mr, ultrasound or unknown (default: what DICOM says)"
    )
    parser.add_argument(
        "--spacing",
        metavar="MM,MM[,MM]",
        help="resample to this spacing in millimetres, such as 1,1,1; auto: the median of the set, but the 10th "
        "percentile on an axis whose median is over 3 times the smallest",
    )
    parser.add_argument(
        "--size",
        metavar="N,N[,N]",
        help="make all examples this size: volumes (and anything resampled) are cropped or padded around "
        "their foreground, other images are shrunk or enlarged as a whole and padded; auto: the median of the set, "
        "after --spacing, rounded up to patches of 16 pixels or 8 voxels",
    )
    parser.add_argument(
        "--chunk",
        metavar="N,N,N",
        help="voxels of the chunks that scans are stored in, none (stored whole) or auto (the default: chunks of "
        "32,32,32, or 256,256 of images, for scans of more than 4 MiB); config.data.crop then reads only what it needs",
    )
    parser.add_argument(
        "--patient-pattern",
        metavar="RE",
        help="regular expression for the patient in a path; its group counts",
    )
    parser.add_argument(
        "--series",
        metavar="RULE.toml",
        help="which DICOM series of each study to take, by a rule (see above); each choice is on the page and in "
        "datasheet.json",
    )
    parser.add_argument(
        "--bids-suffix",
        metavar="T1w[,FLAIR]",
        help="which contrasts of a BIDS folder to take, each a scan of its own (needed where it holds several)",
    )
    parser.add_argument(
        "--frames",
        metavar="WAY",
        help="what a file of several images holds (cine ultrasound, multi-page TIFF, 4D volume): each (an example "
        "an image), N (that many of them, evenly spaced), channels, or refuse (default: each, but 4D volumes "
        "are refused until it is said whether they are times or contrasts)",
    )
    parser.add_argument(
        "--include",
        metavar="WHAT",
        help="localiser, secondary or both (a comma between): take these DICOM images too",
    )
    parser.add_argument(
        "--split",
        metavar="RULE",
        help="80/10/10 (the default; fewer than 10 patients all train until --append brings more), train, fold:2/5 (the "
        "second of five folds is tested on, the next validates) or site:NAME (that site is tested on); overrules splits "
        "that come with the scans",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="draws the patients of the splits (default 0)"
    )
    parser.add_argument(
        "--dedupe",
        action="store_true",
        help="scans that look alike come to one split; where splits are given, to the first that holds any of them",
    )
    parser.add_argument(
        "--append",
        action="store_true",
        help="add to DATASET what is not in it yet, read, prepared and split as it was, so that no option but those of "
        "labels and patients need be given again, and another is refused; no patient changes the split",
    )
    parser.add_argument(
        "--key",
        metavar="FILE",
        help="the key of pseudonyms, made if it is not there (default: $VITMED_KEY, or "
        "~/.config/vitmed/pseudonyms.key)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read, and threads that write chunks (default: one a core); the result is the same",
    )
    parser.add_argument(
        "--beam",
        metavar="RUNNER",
        help="let the workers of this Apache Beam runner read (see above): DirectRunner, FlinkRunner, SparkRunner ...",
    )
    parser.add_argument(
        "--beam-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the runner, such as direct_num_workers=2 or flink_master=HOST:8081; may be given again",
    )


def goes_on(args) -> str:
    import os

    partial = f"{os.path.normpath(args.out)}.partial"
    return (
        f"the scans that were read, which wait in {partial} (remove it to give up)"
        if os.path.isdir(partial)
        else ""
    )


def run(args) -> dict:
    from rich.console import Console
    from rich.markup import escape

    from vitmed.cli.inspect import show
    from vitmed.data import published
    from vitmed.data.datasheet import read
    from vitmed.data.ingest import ingest
    from vitmed.errors import InputError
    from vitmed.report import datasheet

    source = args.source
    if source.startswith(published.PREFIX):
        source = published.file_of(source, args.published)
    elif args.published is not None:
        raise InputError(
            f"--source is a copy of medmnist:NAME; {source} is read from where it is: leave --source out"
        )
    result = ingest(
        source,
        args.out,
        labels=args.labels,
        label_from=args.label_from,
        label_columns=tuple(args.label_column.split(",")) if args.label_column else (),
        task=args.task,
        modality=args.modality,
        spacing=_numbers(args.spacing, "--spacing", float),
        size=_numbers(args.size, "--size", int),
        patient_pattern=args.patient_pattern,
        split=args.split,
        seed=args.seed,
        workers=args.workers,
        dedupe=args.dedupe,
        append=args.append,
        key=args.key,
        frames=int(args.frames) if args.frames and args.frames.isdecimal() else args.frames,
        include=tuple(args.include.split(",")) if args.include else (),
        series=args.series,
        bids_suffix=tuple(args.bids_suffix.split(",")) if args.bids_suffix else (),
        chunk=_numbers(args.chunk, "--chunk", int, ("auto", "none")),
        beam=args.beam,
        beam_options=tuple(args.beam_option),
    )
    console = Console(stderr=args.json, soft_wrap=True)
    show(read(args.out), args.out, console)
    page = datasheet.write(args.out)
    console.print(f"[dim]{'page':>14}[/]  {escape(str(page))}", highlight=False)
    if result["key"]:
        made = ", made now" if result.pop("key_made") else ""
        console.print(
            f"patients are pseudonyms; their key is {escape(result['key'])}{made}: keep it, and apart from the "
            "dataset",
            highlight=False,
        )
    return {name: value for name, value in result.items() if name != "key_made"} | {"page": str(page)}


def _numbers(text, flag, kind, words=("auto",)):
    from vitmed.errors import InputError

    if text is None or text in words:
        return text
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{flag} {text!r} is not numbers with commas between, such as 64,64, nor {' nor '.join(words)}"
        ) from None
