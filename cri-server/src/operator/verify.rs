//! `berth image verify`: what the store's digests say, a line for each finding, and a last one that counts.

use indicatif::{ProgressBar, ProgressStyle};
use proto::operator::operator_client::OperatorClient;
use proto::operator::{Finding, Outcome, VerifyImagesRequest, VerifyReport};
use tonic::transport::Channel;

use super::Error;
use super::say::say;

/// # Errors
/// Also when something is damaged that was not mended, after all of it was told.
pub(super) async fn verify(
    channel: Channel,
    names: &[String],
    repair: bool,
    auth_files: Vec<String>,
) -> Result<(), Error> {
    let request = VerifyImagesRequest { names: names.to_vec(), repair, auth_files };
    let mut answers = OperatorClient::new(channel).verify_images(request).await?.into_inner();
    let bar = ProgressBar::new(0).with_style(style());
    while let Some(now) = answers.message().await? {
        bar.set_length(now.all);
        bar.set_position(now.done);
        if let Some(report) = now.report {
            bar.finish_and_clear();
            return tell(&report);
        }
    }
    Ok(())
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("  verifying [{bar:30}] {pos}/{len}").expect("the template is right")
}

fn tell(report: &VerifyReport) -> Result<(), Error> {
    for finding in &report.findings {
        say(&line(finding))?;
    }
    let count = |wanted: Outcome| report.findings.iter().filter(|found| found.outcome() == wanted).count();
    let left = count(Outcome::Left) + count(Outcome::NotMended);
    let (mended, unknown) = (count(Outcome::Mended), count(Outcome::Unknown));
    say(&format!(
        "verify: {} images, {} layers: {left} damaged, {mended} mended, {unknown} that nobody can tell\n",
        report.images, report.layers
    ))?;
    if left > 0 { Err(Error::Unwell) } else { Ok(()) }
}

fn line(finding: &Finding) -> String {
    let outcome = match finding.outcome() {
        Outcome::Unknown => "can't be told".to_owned(),
        Outcome::Left => "DAMAGED".to_owned(),
        Outcome::Mended => "mended".to_owned(),
        Outcome::NotMended => format!("DAMAGED, not mended ({})", finding.hindrance),
    };
    format!("{outcome}  {}  {}: {}\n", finding.image, finding.object, finding.why)
}
