"""Copy a dataset or a run between object storage and a disk of this machine (extra cloud).

  vitmed stage gs://bucket/data/chest data/chest          from the bucket, before training
  vitmed stage runs/mae s3://bucket/runs/mae              to the bucket, whenever it should be safe there

One of FROM and TO is an address, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER; the other is a folder of this machine. What
is there already is not copied again: small files are compared by their contents, larger ones by size and time. A folder
on this machine is exchanged whole, by renames; after an interruption the same command goes on, and processes that ask for
the same folder wait for the first. Of a run that is being trained only whole checkpoints are copied, each with its
manifest last. What TO has and FROM has not stays, and is counted: after `vitmed withdraw`, give --delete.

Credentials are those of the machine (AWS's and Google's own variables, files and roles); another server that speaks S3
is named by AWS_ENDPOINT_URL. launch/stage.sh does all of this around a training, at the start, every so often and at the end.
"""

from vitmed import words

HELP = "a dataset or run between object storage (s3://, gs://) and a disk of this machine"
EACH = True


def goes_on(args) -> str:
    return "what was copied"


def arguments(parser):
    parser.add_argument("source", metavar="FROM", help="an address or a folder")
    parser.add_argument("to", metavar="TO", help="a folder, if FROM is an address, or else an address")
    parser.add_argument(
        "--delete",
        action="store_true",
        help="remove from TO what FROM does not hold, such as old checkpoints",
    )
    parser.add_argument(
        "--goes-on",
        action="store_true",
        help="FROM is a run that is to go on in TO: copy nothing over the same run that has come as far there",
    )
    parser.add_argument(
        "--if-there", action="store_true", help="do nothing where there is no FROM, in place of exit code 2"
    )


def run(args) -> dict:
    from vitmed.staging import stage

    options = {name: getattr(args, name) for name in ("delete", "if_there", "goes_on")}
    done = stage(args.source, args.to, **options, progress=not args.json)
    if not args.json:
        gone = f", {done['deleted']} removed" if done["deleted"] else ""
        if done["strays"]:
            gone += f", {done['strays']} more that {args.source} has not (--delete removes them)"
        print(
            f"{args.to}: {words.plural(done['copied'], 'file')} copied ({done['bytes']:,} bytes), {done['there']} there already{gone}"
        )
    return {"from": args.source, "to": args.to, **done}
