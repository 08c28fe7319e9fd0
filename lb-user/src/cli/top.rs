//! x
pub(super) fn top(_arguments: &crate::cli::args::Top) -> anyhow::Result<()> {
    anyhow::bail!("`lb top` is not supported yet")
}
