//! stub
use anyhow::Result;
#[derive(clap::Args, Debug)]
pub struct Options {}
pub fn run(_: &Options) -> Result<()> {
    Ok(())
}
