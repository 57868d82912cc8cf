#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {}
pub(super) async fn run(_: DemoArgs, _: crate::config::Config) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("stub")
}
