//! The command line.

use std::path::PathBuf;

use cantle_disk::ImageFormat;
use cantle_layers::GenerationId;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::size::{Resize, Size};

const HELP: &str = "\
Formats: raw, vhd (QEMU's name for it, vpc, does as well), qcow2, vmdk. Without -f it is what the file's name ends with, and raw
where that says nothing. It is not guessed from what the file contains, since a raw disk's guest decides what that is.

Sizes are bytes, with K, M, G, T or P behind them of 1024.

Examples:
  cantle-img create disk.qcow2 20G
  cantle-img create -b golden.vhd guest7.vhd
  cantle-img info --chain guest7.vhd
  cantle-img convert disk.qcow2 disk.vhd
  cantle-img convert -n -O raw disk.qcow2 /dev/vg0/disk
  cantle-img check --repair=all disk.vmdk
  cantle-img snapshot disk.qcow2 after.qcow2
  cantle-img commit after.qcow2
  cantle-img compare disk.qcow2 disk.vhd

Exit codes: 0; 1 where something failed or was used wrongly; 130 (143) after Ctrl-C (SIGTERM), when what was half made is removed.
`check`: 0 clean, 1 not checked, 2 damaged, 3 space is lost and nothing else, 63 raw images, of which nothing can be checked.
`compare`: 0 equal, 1 different, 2 where something failed.";

/// Makes, converts, checks, merges and compares disk images, in the habits of qemu-img and vhd-util.
#[derive(Debug, Parser)]
#[command(name = "cantle-img", version, arg_required_else_help = true, after_help = HELP)]
pub(crate) struct Cli {
    /// Say nothing but what was asked for, and errors.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// Do not show how far it is. It is a bar where standard error is a terminal, else a line every 10 %.
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,

    /// Which files may be opened because an image names them as its parent.
    #[arg(long, global = true, value_name = "WHICH", default_value = "folder")]
    pub(crate) parents: Policy,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which parents may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// None.
    Refuse,
    /// Those in the image's own folder and below it.
    Folder,
    /// Whatever an image names: for images of one's own.
    Any,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes an image.
    Create(Create),
    /// Says what an image is.
    Info(Info),
    /// Copies a disk into a new image of any format, or into an image or device that is there.
    Convert(Convert),
    /// Looks for what is wrong with an image's tables, and repairs it.
    Check(Check),
    /// Writes what an image has over its parent into the parent.
    Commit(Commit),
    /// Makes an image over another one, which keeps what is there now; or lists such images.
    Snapshot(Snapshot),
    /// Whether two disks have the same contents, of whatever formats they are.
    Compare(Compare),
    /// Lists what of a disk is where.
    Map(Map),
    /// Makes a disk larger.
    Resize(ResizeDisk),
    /// Lists what has changed, by the file in which a disk's changes are tracked.
    Changes(Changes),
}

/// What an image is made as.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// How it is made: `preallocate` takes all its space at once (a fixed VHD, a flat VMDK); `unit=SIZE` is the unit in which space is
    /// taken (VHD's blocks, qcow2's clusters, VMDK's grains).
    #[arg(short = 'o', value_name = "OPTION", value_delimiter = ',', action = ArgAction::Append)]
    pub(crate) options: Vec<String>,

    /// The parent that it shows where it has nothing of its own (VHD, qcow2): a path as every other.
    #[arg(short, long, value_name = "PARENT")]
    pub(crate) backing: Option<PathBuf>,

    /// The parent's format.
    #[arg(short = 'F', long, value_name = "FORMAT", requires = "backing")]
    pub(crate) backing_format: Option<ImageFormat>,

    /// Replace a file that is there, when the new one is whole.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cantle-img create disk.qcow2 20G
  cantle-img create -o preallocate disk.vhd 20G
  cantle-img create -b golden.qcow2 guest.qcow2")]
pub(crate) struct Create {
    /// The new image's format.
    #[arg(short, long)]
    pub(crate) format: Option<ImageFormat>,

    #[command(flatten)]
    pub(crate) options: Options,

    /// The new image.
    pub(crate) file: PathBuf,

    /// The disk's size; the parent's without.
    pub(crate) size: Option<Size>,
}

#[derive(Debug, Args)]
pub(crate) struct Info {
    /// The image's format. Without, it is shown by what it looks like, which nothing else here does.
    #[arg(short, long)]
    pub(crate) format: Option<ImageFormat>,

    /// Its parents as well.
    #[arg(long)]
    pub(crate) chain: bool,

    /// As JSON, with qemu-img's names for what qemu-img knows, too.
    #[arg(long)]
    pub(crate) json: bool,

    /// Also where somebody is writing to it, so that what is shown may be wrong.
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,

    /// The image.
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The new image gets its name when it is whole and on the medium. Until then it is in a hidden folder beside, .NAME.cantle-img, which is
removed when the conversion fails or is interrupted; after a crash or a SIGKILL it stays until the next conversion to that name.
With -n, what is half written stays half written.

Examples:
  cantle-img convert disk.vmdk disk.qcow2
  cantle-img convert -O vhd -o preallocate disk.qcow2 disk.vhd
  cantle-img convert -n disk.qcow2 /dev/vg0/disk")]
pub(crate) struct Convert {
    /// The source's format.
    #[arg(short, long)]
    pub(crate) format: Option<ImageFormat>,

    /// The new image's format.
    #[arg(short = 'O', long, value_name = "FORMAT")]
    pub(crate) output_format: Option<ImageFormat>,

    #[command(flatten)]
    pub(crate) options: Options,

    /// So many bytes of zeroes (up to 256K) are left out, at multiples of as many; 0: none, all is written.
    #[arg(short = 'S', long, value_name = "SIZE", default_value = "4K")]
    pub(crate) sparse_size: Size,

    /// Write into an image or device that is there, and at least as large.
    #[arg(short = 'n', long, conflicts_with_all = ["options", "backing", "overwrite"])]
    pub(crate) no_create: bool,

    /// As qemu-img's; progress is shown anyway.
    #[arg(short, hide = true)]
    pub(crate) _progress: bool,

    /// The image to be copied.
    pub(crate) source: PathBuf,

    /// The new image.
    pub(crate) target: PathBuf,
}

/// What is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Repair {
    /// Lost space, and nothing where there is more.
    Leaks,
    /// What can be.
    All,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 clean, 1 not checked, 2 damaged, 3 space is lost and nothing else, 63 raw images, of which nothing can be checked; after a
repair, of what is left.")]
pub(crate) struct Check {
    /// The image's format.
    #[arg(short, long)]
    pub(crate) format: Option<ImageFormat>,

    /// Repair it.
    #[arg(short, long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    pub(crate) repair: Option<Repair>,

    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,

    /// Also where somebody is writing to it, so that what is found may be wrong.
    #[arg(short = 'U', long, conflicts_with = "repair")]
    pub(crate) force_share: bool,

    /// The image. Its parents are not looked at.
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The image itself is left as it is: it reads as before, and can be removed when it is not needed any more. Other images over the same parent
are worthless then. After a crash half-way both can be read, the image as before, and the command can be given again.")]
pub(crate) struct Commit {
    /// The image's format: vhd or qcow2.
    #[arg(short, long)]
    pub(crate) format: Option<ImageFormat>,

    /// The image over the parent.
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
FILE keeps what is there now and must not be written any more; NEW, a differencing VHD or a qcow2 image with a backing file, takes what is
written from then on. `cantle-img commit NEW` brings the two together again.")]
pub(crate) struct Snapshot {
    /// FILE's format.
    #[arg(short, long)]
    pub(crate) format: Option<ImageFormat>,

    /// List FILE and what it stands on.
    #[arg(short, long, conflicts_with = "new")]
    pub(crate) list: bool,

    /// The image that is there.
    pub(crate) file: PathBuf,

    /// The new one, of the same format; over a raw image of the format that its name says.
    #[arg(required_unless_present = "list")]
    pub(crate) new: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 equal, 1 different, 2 where something failed. Where one is larger, the rest has to be zeroes."
)]
pub(crate) struct Compare {
    /// The first one's format.
    #[arg(short, long)]
    pub(crate) format: Option<ImageFormat>,

    /// The second one's format.
    #[arg(short = 'F', long, value_name = "FORMAT")]
    pub(crate) second_format: Option<ImageFormat>,

    /// Different sizes are a difference.
    #[arg(short, long)]
    pub(crate) strict: bool,

    /// Also where somebody is writing to them.
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,

    /// One image.
    pub(crate) first: PathBuf,

    /// The other one.
    pub(crate) second: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Map {
    /// The image's format.
    #[arg(short, long)]
    pub(crate) format: Option<ImageFormat>,

    /// As JSON, with zeroes.
    #[arg(long)]
    pub(crate) json: bool,

    /// Also where somebody is writing to it.
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,

    /// The image.
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ResizeDisk {
    /// The image's format.
    #[arg(short, long)]
    pub(crate) format: Option<ImageFormat>,

    /// The image.
    pub(crate) file: PathBuf,

    /// The new size, or by how much (`+10G`). No disk becomes smaller.
    pub(crate) size: Resize,
}

#[derive(Debug, Args)]
pub(crate) struct Changes {
    /// Since which checkpoint; without, the checkpoints are listed.
    #[arg(long, value_name = "ID")]
    pub(crate) since: Option<GenerationId>,

    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,

    /// The file of changes.
    pub(crate) file: PathBuf,
}
