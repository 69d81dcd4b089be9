//! The process as Prometheus's client libraries describe it, read from `/proc/self` on each scrape.

use std::fmt;
use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::histogram::float;

/// Leaves a family out when the kernel does not show its file, as in a sandbox without `/proc`.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        gauge(
            &mut encoder,
            ("process_open_fds", "Open file descriptors."),
            None,
            open_fds(),
        )?;
        let max_fds = fs::read_to_string("/proc/self/limits")
            .ok()
            .and_then(|limits| max_fds(&limits));
        gauge(
            &mut encoder,
            ("process_max_fds", "Limit of open file descriptors."),
            None,
            max_fds,
        )?;
        gauge(
            &mut encoder,
            ("process_threads", "Threads."),
            None,
            number(&status, "Threads:"),
        )?;
        for (name, help, key) in [
            ("process_resident_memory", "Resident memory.", "VmRSS:"),
            ("process_virtual_memory", "Virtual memory.", "VmSize:"),
        ] {
            let bytes = number(&status, key).map(|kib| kib.saturating_mul(1024));
            gauge(&mut encoder, (name, help), Some(&Unit::Bytes), bytes)?;
        }
        if let Some(spent) = cpu_time(&stat) {
            let help = "Processor time, user and system.";
            encoder
                .encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, f64>(&spent.as_secs_f64(), None)?;
        }
        if let Some(started) = start_time(&stat) {
            let help = "When the process started, since the epoch.";
            encoder
                .encode_descriptor(
                    "process_start_time",
                    help,
                    Some(&Unit::Seconds),
                    MetricType::Gauge,
                )?
                .encode_gauge(&started.as_secs_f64())?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    unit: Option<&Unit>,
    value: Option<u64>,
) -> fmt::Result {
    match value {
        Some(value) => encoder
            .encode_descriptor(name, help, unit, MetricType::Gauge)?
            .encode_gauge(&float(value)),
        None => Ok(()),
    }
}

/// The directory that is read is itself open meanwhile, and not counted.
fn open_fds() -> Option<u64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    u64::try_from(entries.count().saturating_sub(1)).ok()
}

/// The soft limit; none if unlimited.
fn max_fds(limits: &str) -> Option<u64> {
    let rest = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The number after `key` in `/proc/self/status`.
fn number(status: &str, key: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn cpu_time(stat: &str) -> Option<Duration> {
    // proc_pid_stat(5): fields 14 and 15.
    Some(ticks(stat_field(stat, 14)?.saturating_add(stat_field(stat, 15)?)))
}

/// Time since the epoch: when the machine booted, plus the start after that (field 22).
fn start_time(stat: &str) -> Option<Duration> {
    let machine = fs::read_to_string("/proc/stat").ok()?;
    let booted = UNIX_EPOCH + Duration::from_secs(number(&machine, "btime ")?);
    (booted + ticks(stat_field(stat, 22)?))
        .duration_since(UNIX_EPOCH)
        .ok()
}

/// Numbered from 1. The second field is the program's name in parentheses and may hold spaces, so count after it.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count.saturating_mul(MS_PER_TICK))
}

/// `USER_HZ` is 100 on every architecture that the agent is built for.
const MS_PER_TICK: u64 = 10;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn fields_are_counted_after_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 0 0 0 0 250 150 0 0 20 0 1 0 4200 0 0";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(4)));
        assert_eq!(stat_field(stat, 22), Some(4_200));
    }

    #[test]
    fn an_unlimited_number_of_files_has_no_value() {
        assert_eq!(
            max_fds("Max open files            1024                 4096                 files"),
            Some(1024)
        );
        assert_eq!(
            max_fds("Max open files            unlimited            unlimited            files"),
            None
        );
    }

    #[test]
    fn this_process_started_in_the_last_day_and_before_now() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let started = start_time(&stat).unwrap();
        // `btime` has whole seconds, so the start may seem up to one second late.
        assert!(started < now + Duration::from_secs(1) && started + Duration::from_hours(24) > now);
    }
}
