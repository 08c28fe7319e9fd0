// Plays seeded TCP packets at the kernel's own IPVS and writes down which real server each SYN got.
//
//     record COUNT SEED > traces.txt
//
// It needs root, ip_vs with ip_vs_lc and ip_vs_wlc, and interfaces made ready by run.sh: frames that
// it sends on g0 arrive on d0, addressed to 10.0.0.100; real servers 192.168.1.11.. are neighbours.
// Every trace has a service on a port of its own, so no count of one is seen by another. All choices
// are read back from IPVS (IP_VS_SO_GET_DESTS); nothing here knows a formula.
//
// One trace is one line: scheduler, weights, events, counts in the end.
//     sC>D  SYN of client C, which real server D got ("-": nobody)
//     aC fC rC  ACK, FIN+ACK, RST of client C
//     tN  N seconds pass, then =A/I,A/I.. the active and inactive connections of each real server
//     wD=N  weight of real server D
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/ip_vs.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS = 20, SERVERS = 5, FIN = 1, SYN = 2, RST = 4, ACK = 16 };

static int packet_socket, ipvs_socket;
static uint64_t state;
static uint16_t service_port;

static void fail(const char *what) { perror(what); exit(1); }

// splitmix64
static uint32_t below(uint32_t n) {
    uint64_t z = (state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (z ^ (z >> 31)) % n;
}

static uint32_t sum(const void *data, int len) {
    const uint8_t *p = data;
    uint32_t s = 0;
    for (int i = 0; i < len; i++) s += i & 1 ? p[i] : p[i] << 8;
    return s;
}

static uint16_t fold(uint32_t s) {
    while (s >> 16) s = (s & 0xffff) + (s >> 16);
    return htons(~s);
}

static void send_packet(int client, int flags) {
    uint8_t f[54] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0};
    uint8_t *ip = f + 14, *tcp = f + 34;
    ip[0] = 0x45; ip[3] = 40; ip[8] = 64; ip[9] = IPPROTO_TCP;
    uint32_t source = inet_addr("172.16.0.1"), vip = inet_addr("10.0.0.100");
    memcpy(ip + 12, &source, 4); memcpy(ip + 16, &vip, 4);
    uint16_t check = fold(sum(ip, 20));
    memcpy(ip + 10, &check, 2);
    uint16_t from = htons(20000 + client), to = htons(service_port);
    memcpy(tcp, &from, 2); memcpy(tcp + 2, &to, 2);
    tcp[12] = 0x50; tcp[13] = flags; tcp[14] = 0x20;
    check = fold(sum(tcp, 20) + sum(ip + 12, 8) + IPPROTO_TCP + 20);
    memcpy(tcp + 16, &check, 2);
    if (send(packet_socket, f, sizeof f, 0) != sizeof f) fail("send");
}

struct dests { struct ip_vs_get_dests head; struct ip_vs_dest_entry entries[SERVERS]; };

// Counts of real server D are in a[D]; IPVS lists them in an order of its own.
static void counts(int servers, int a[SERVERS][2]) {
    struct dests d = {0};
    socklen_t len = sizeof d.head + servers * sizeof d.entries[0];
    d.head.protocol = IPPROTO_TCP; d.head.addr = inet_addr("10.0.0.100");
    d.head.port = htons(service_port); d.head.num_dests = servers;
    if (getsockopt(ipvs_socket, IPPROTO_IP, IP_VS_SO_GET_DESTS, &d, &len)) fail("get dests");
    for (int i = 0; i < servers; i++) {
        int n = (ntohl(d.entries[i].addr) & 0xff) - 11;
        a[n][0] = d.entries[i].activeconns; a[n][1] = d.entries[i].inactconns;
    }
}

static void print_counts(int servers) {
    int a[SERVERS][2];
    counts(servers, a);
    for (int i = 0; i < servers; i++) printf("%c%d/%d", i ? ',' : '=', a[i][0], a[i][1]);
}

struct command { struct ip_vs_service_user service; struct ip_vs_dest_user dest; };

static void command(int what, const char *scheduler, int server, int weight) {
    struct command c = {0};
    c.service.protocol = IPPROTO_TCP; c.service.addr = inet_addr("10.0.0.100");
    c.service.port = htons(service_port); c.service.netmask = 0xffffffff;
    strcpy(c.service.sched_name, scheduler);
    c.dest.addr = htonl(0xc0a8010b + server); c.dest.port = htons(service_port);
    c.dest.conn_flags = IP_VS_CONN_F_DROUTE; c.dest.weight = weight;
    int dest = what == IP_VS_SO_SET_ADDDEST || what == IP_VS_SO_SET_EDITDEST;
    if (setsockopt(ipvs_socket, IPPROTO_IP, what, &c, dest ? sizeof c : sizeof c.service))
        fail("IPVS");
}

static void trace(int number, const char *scheduler) {
    int servers = 2 + below(SERVERS - 1), weights[SERVERS], now = 0;
    // When a client was last heard, and whether it may open a connection: one that closed waits
    // until IPVS has forgotten it, because what a reopened one finds depends on timers.
    int heard[CLIENTS] = {0}, closed[CLIENTS] = {0}, known[CLIENTS] = {0}, before[SERVERS][2], after[SERVERS][2];
    service_port = 1000 + number;
    command(IP_VS_SO_SET_ADD, scheduler, 0, 0);
    printf("%s ", scheduler);
    for (int i = 0; i < servers; i++) {
        weights[i] = below(8) ? 1 + below(4) * below(3) : 0;
        command(IP_VS_SO_SET_ADDDEST, scheduler, i, weights[i]);
        printf("%s%d", i ? "," : "", weights[i]);
    }
    int events = 25 + below(20);
    for (int n = 0; n < events; n++) {
        int c = below(CLIENTS), dice = below(100);
        // Packets of clients that never opened a connection are only now and then of interest.
        while (dice >= 45 && dice < 88 && !known[c] && below(20)) c = below(CLIENTS), dice = below(100);
        if (closed[c] && now - heard[c] > 130) closed[c] = 0;
        if (dice < 45 && !closed[c]) {
            counts(servers, before);
            send_packet(c, SYN);
            counts(servers, after);
            int got = -1;
            for (int i = 0; i < servers; i++)
                if (after[i][0] + after[i][1] > before[i][0] + before[i][1]) got = i;
            // A SYN that stays with its connection is told as one that nobody got anew.
            if (got < 0) printf(" s%d>-", c); else printf(" s%d>%d", c, got);
            heard[c] = now; known[c] = 1;
        } else if (dice < 65) {
            send_packet(c, ACK); printf(" a%d", c); heard[c] = now;
        } else if (dice < 81) {
            send_packet(c, FIN | ACK); printf(" f%d", c); heard[c] = now; closed[c] = 1;
        } else if (dice < 88) {
            send_packet(c, RST); printf(" r%d", c); heard[c] = now; closed[c] = 1;
        } else if (dice < 95) {
            int i = below(servers);
            weights[i] = below(5) ? 1 + below(6) : 0;
            command(IP_VS_SO_SET_EDITDEST, scheduler, i, weights[i]);
            printf(" w%d=%d", i, weights[i]);
        } else {
            // Multiples of 7 s keep away from every timeout by a second before and, for the
            // granularity of the kernel's timers, by more than two after.
            int s = 7 * (1 + below(3) * below(6));
            struct timespec t = {s, 0};
            while (nanosleep(&t, &t)) {}
            now += s;
            printf(" t%d", s); print_counts(servers);
        }
        if (now > 800) break;
    }
    putchar(' '); print_counts(servers); putchar('\n');
    command(IP_VS_SO_SET_DEL, scheduler, 0, 0);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    state = strtoull(argv[2], 0, 0);
    packet_socket = socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex("g0")};
    if (packet_socket < 0 || bind(packet_socket, (void *)&to, sizeof to)) fail("g0");
    ipvs_socket = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (ipvs_socket < 0) fail("raw socket");
    for (int n = 0; n < atoi(argv[1]); n++) trace(n, n % 2 ? "lc" : "wlc");
    return 0;
}
