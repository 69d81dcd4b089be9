//! Servers that speak first, with the clients that people use.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::SERVERS;
use crate::process;
use crate::running::Running;
use crate::sandbox;
use crate::suites::ask::{equal, until};

const CLIENT: &str = super::CLIENT;

pub(super) fn mail_is_delivered_to_a_server_that_speaks_first(lab: &Running) -> Result<()> {
    for server in SERVERS {
        let script = format!(
            "seq 1 5000 | curl -sSv -m 10 --mail-from a@lab.test --mail-rcpt b@lab.test -T - smtp://{server} 2>&1"
        );
        let output = lab.exec(CLIENT, &["sh", "-c", &script])?.success()?;
        // 5,000 lines of digits, and the line end before the full stop.
        for wanted in [format!("< 220 {server} ESMTP"), "< 250 23895 bytes".to_owned()] {
            ensure!(
                output.stdout.contains(&wanted),
                "no {wanted:?}: {}",
                output.stdout
            );
        }
    }
    Ok(())
}

pub(super) fn mariadb_serves_its_own_client(lab: &Running) -> Result<()> {
    SERVERS.into_iter().try_for_each(|server| mariadb(lab, server))
}

/// Runs a real server in the pod of `server` for as long as the claim needs it.
fn mariadb(lab: &Running, server: &str) -> Result<()> {
    let script = r#"mkdir -p "$SCRATCH/db" && exec mariadbd --no-defaults --user=root --datadir="$SCRATCH/db" \
        --socket="$SCRATCH/db.sock" --port=3306 --bind-address='*' --skip-grant-tables --skip-name-resolve \
        --innodb-buffer-pool-size=8M --innodb-log-file-size=4M"#;
    let program = ["sh", "-c", script].map(str::to_owned);
    let log = lab.site.logs().join(format!("mariadb-{server}.log"));
    let pod = format!("shop/{server}").parse()?;
    let mut database = sandbox::start(lab.command(&pod, &program, &lab.state.input)?, &log, &log)?;
    let claimed = (|| {
        let ask = |statement: &str| {
            let client = [
                "mariadb",
                "--no-defaults",
                "--connect-timeout=5",
                "--protocol=tcp",
                "-N",
            ];
            let words = ["-h", server, "-u", "root", "-e", statement];
            lab.exec(CLIENT, &[&client[..], &words].concat())
        };
        until(Duration::from_secs(30), "the database answers", || {
            Ok(ask("select 1")?.is_success())
        })?;
        ask("create database d; use d; create table t (n int, s longtext); insert into t select seq, repeat('x', 20000) from seq_1_to_100")?.success()?;
        let output = ask("select count(*), sum(length(s)), sum(n) from d.t")?.success()?;
        equal(
            "what the database counts",
            output.stdout.trim(),
            "100\t2000000\t5050",
        )?;
        let output = ask("select s from d.t")?.success()?;
        equal("bytes of a large answer", output.stdout.len(), 100 * 20_001)
    })();
    process::reap(&mut database)?;
    claimed
}
