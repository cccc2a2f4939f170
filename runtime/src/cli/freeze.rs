//! `pause` and `resume`.

use super::args::{Args, unknown};
use super::{Error, Global};

pub(crate) fn pause(global: &Global, args: Args) -> Result<u8, Error> {
    global.runtime.pause(&only_id(args)?)?;
    Ok(0)
}

pub(crate) fn resume(global: &Global, args: Args) -> Result<u8, Error> {
    global.runtime.resume(&only_id(args)?)?;
    Ok(0)
}

fn only_id(mut args: Args) -> Result<String, Error> {
    if let Some(option) = args.option() {
        return Err(unknown(&option));
    }
    let id = args.id()?;
    args.end()?;
    Ok(id)
}
