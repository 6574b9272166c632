//! The steps of a live update, as `xenstore-control live-update` asks for them.

use std::path::PathBuf;
use std::time::Duration;

use cantle_abi::Errno;

/// One request's worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `-f FILE`: begin, with this program.
    Program(PathBuf),
    /// `-c TEXT`: the new program's command line, blank-separated.
    CommandLine(Vec<String>),
    /// `-s [-t SECONDS] [-F] [-v VERSION]`: do it.
    Start(Start),
    /// `-a`: leave it.
    Abort,
}

/// How a live update is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// How long open transactions are waited for.
    pub(crate) patience: Duration,
    /// Whether it is done in spite of those that are open then.
    pub(crate) force: bool,
    /// The version of the state's format; none for the newest.
    pub(crate) version: Option<u32>,
}

impl Step {
    /// Understands a request's arguments.
    pub(crate) fn parse(args: &[String]) -> Result<Self, Errno> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match args.as_slice() {
            ["-f", file] if !file.is_empty() => Ok(Self::Program(file.into())),
            ["-c", text] => Ok(Self::CommandLine(
                text.split_ascii_whitespace().map(str::to_owned).collect(),
            )),
            ["-a"] => Ok(Self::Abort),
            ["-s", how @ ..] => start(how).map(Self::Start),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn start(mut args: &[&str]) -> Result<Start, Errno> {
    let mut how = Start {
        patience: Duration::ZERO,
        force: false,
        version: None,
    };
    let number = |text: &str| text.parse::<u32>().map_err(|_| Errno::EINVAL);
    loop {
        args = match args {
            [] => return Ok(how),
            ["-F", rest @ ..] => {
                how.force = true;
                rest
            }
            ["-t", seconds, rest @ ..] => {
                how.patience = Duration::from_secs(number(seconds)?.into());
                rest
            }
            ["-v", version, rest @ ..] => {
                how.version = Some(number(version)?);
                rest
            }
            _ => return Err(Errno::EINVAL),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Step, Errno> {
        Step::parse(&line.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_documented_steps_are_understood() {
        assert_eq!(
            parse(&["-f", "/usr/sbin/new"]),
            Ok(Step::Program("/usr/sbin/new".into()))
        );
        assert_eq!(
            parse(&["-c", " --socket /x  --log-level debug"]),
            Ok(Step::CommandLine(
                ["--socket", "/x", "--log-level", "debug"]
                    .map(str::to_owned)
                    .to_vec()
            ))
        );
        assert_eq!(parse(&["-a"]), Ok(Step::Abort));
        let plain = Start {
            patience: Duration::ZERO,
            force: false,
            version: None,
        };
        assert_eq!(parse(&["-s"]), Ok(Step::Start(plain)));
        let all = Start {
            patience: Duration::from_secs(60),
            force: true,
            version: Some(1),
        };
        assert_eq!(
            parse(&["-s", "-t", "60", "-F", "-v", "1"]),
            Ok(Step::Start(all))
        );
    }

    #[test]
    fn anything_else_is_an_invalid_argument() {
        for wrong in [
            &[][..],
            &["-f"],
            &["-f", ""],
            &["-f", "a", "b"],
            &["-a", "now"],
            &["-s", "-t"],
            &["-s", "-t", "soon"],
            &["-s", "-t", "-1"],
            &["-s", "-x"],
            &["-b", "4096"],
            &["-d", "1", "x"],
            &["-c"],
        ] {
            assert_eq!(parse(wrong), Err(Errno::EINVAL), "{wrong:?}");
        }
    }
}
