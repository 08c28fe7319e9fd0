//! The lab without any product: its peers work, and its checks can fail.

use crate::stage::no_checksum_errors;
use anyhow::ensure;
use harness::counters::established;
use harness::peer::{self, Holder, Load, SteppedDownload};
use harness::topology::{Family, endpoint, server_address};
use harness::wait::{eventually, seconds};
use harness::{Shape, scenario};

fn rs1(family: Family, port: u16) -> String {
    endpoint(&server_address(family, 1), port)
}

#[test]
fn the_kernel_alone_routes_between_the_arms() {
    scenario(Shape::TwoArms { servers: 1 }, |lab| {
        let _server = peer::http_server(&lab.servers[0], "rs1", 80)?;
        let url = peer::url(&rs1(Family::V4, 80));
        let closed = peer::get_within(&lab.client, &url, 1, seconds(1))?;
        ensure!(closed.failed == 1, "nothing routes before the sysctl is set: {closed}");
        lab.forward_in_kernel(true)?;
        for family in [Family::V4, Family::V6] {
            let url = peer::url(&rs1(family, 80));
            peer::get(&lab.client, &url, 100)?.exactly(&[("rs1", 100)])?;
        }
        no_checksum_errors(lab)
    });
}

#[test]
fn transfers_are_compared_at_both_ends() {
    scenario(Shape::OneLan { servers: 1 }, |lab| {
        let _sink = peer::tcp_sink(&lab.servers[0], 90)?;
        for family in [Family::V4, Family::V6] {
            let (tcp, udp) = (rs1(family, 90), rs1(family, 91));
            let _copier = peer::udp_copy_server(&lab.servers[0], &udp)?;
            peer::tcp_copy(&lab.client, &tcp, &[])?.equal()?;
            peer::tcp_copy(&lab.client, &tcp, &["--direction", "down"])?.equal()?;
            peer::udp_copy(&lab.client, &udp, &[])?.equal()?;
        }
        let damaged = peer::tcp_copy(&lab.client, &rs1(Family::V4, 90), &["--flip", "yes"])?;
        ensure!(damaged.equal().is_err(), "one flipped byte went unnoticed over TCP");
        let udp = rs1(Family::V4, 91);
        let _copier = peer::udp_copy_server(&lab.servers[0], &udp)?;
        let damaged = peer::udp_copy(&lab.client, &udp, &["--flip", "yes"])?;
        ensure!(damaged.equal().is_err(), "one flipped byte went unnoticed over UDP");
        let mut download = SteppedDownload::start(&lab.client, &rs1(Family::V4, 90))?;
        download.step()?;
        download.finish()?;
        no_checksum_errors(lab)
    });
}

#[test]
fn fragments_are_counted_once_and_compared() {
    scenario(Shape::OneLan { servers: 1 }, |lab| {
        for family in [Family::V4, Family::V6] {
            let to = rs1(family, 92);
            let _server = peer::fragment_server(&lab.servers[0], &to)?;
            for order in ["forward", "reversed", "interleaved", "shuffled"] {
                let carried = peer::fragments(&lab.client, &to, order, 10)?;
                ensure!(carried.is_perfect(10), "{order}: {carried:?}");
            }
            let fault = |fault| peer::fragments_with(&lab.client, &to, "forward", 4, fault);
            let damaged = fault(&["--flip", "yes"])?;
            ensure!(damaged.wrong == 4, "one flipped byte went unnoticed: {damaged:?}");
            let twice = fault(&["--twice", "yes"])?;
            ensure!(twice.repeated > 0, "a second copy went unnoticed: {twice:?}");
        }
        Ok(())
    });
}

#[test]
fn held_connections_are_what_ss_counts() {
    scenario(Shape::OneLan { servers: 1 }, |lab| {
        let server = peer::hold_server(&lab.servers[0], 90)?;
        let mut holder = Holder::start(&lab.client, &rs1(Family::V4, 90))?;
        let held = holder.open(300)?.unbroken()?;
        ensure!(held.open == 300, "{held:?}");
        let held = holder.churn(1000)?.unbroken()?;
        ensure!(established(&lab.servers[0], 90)? == held.open, "ss disagrees with {held:?}");
        let held = holder.close(2000)?.unbroken()?;
        ensure!(held.open == 0, "{held:?}");
        ensure!(established(&lab.servers[0], 90)? == 0, "ss still shows connections");
        holder.open(10)?.unbroken()?;
        drop(server);
        let lost = holder.echo()?;
        ensure!(lost.failed == 10, "a server's death went unnoticed: {lost:?}");
        Ok(())
    });
}

#[test]
fn a_load_counts_what_fails_and_when() {
    scenario(Shape::OneLan { servers: 1 }, |lab| {
        let server = peer::http_server(&lab.servers[0], "rs1", 80)?;
        let mut load = Load::start(&lab.client, &peer::url(&rs1(Family::V4, 80)))?;
        eventually(seconds(5), "the first answers", || Ok(load.count()?.total() >= 20))?;
        drop(server);
        eventually(seconds(5), "a failure", || Ok(load.count()?.failed > 0))?;
        load.mark()?;
        eventually(seconds(5), "a failure after the mark", || Ok(load.count()?.failed > 0))?;
        let phases = load.stop()?;
        ensure!(phases.len() == 2 && phases[0].total() >= 20, "{phases:?}");
        ensure!(phases[1].total() == 0 && phases[1].unbroken().is_err(), "{phases:?}");
        Ok(())
    });
}

#[test]
fn udp_questions_are_counted_by_server() {
    scenario(Shape::OneLan { servers: 1 }, |lab| {
        let to = rs1(Family::V6, 53);
        let _server = peer::udp_server(&lab.servers[0], "rs1", &to)?;
        peer::udp_ask(&lab.client, &to, 20)?.exactly(&[("rs1", 20)])
    });
}
