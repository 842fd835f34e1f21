/* Traffic for the benchmark: one program, linked statically, so that it also runs as the only file of a container.
 *
 *     load serve PORT               answer the three below, on every address; the first byte of a connection says which
 *     load stream ADDRESS PORT S    send as much as goes for S seconds; prints Mbit/s, as the receiver counted them
 *     load echo ADDRESS PORT S      send a byte, await it, and so on; prints round trips a second
 *     load connect ADDRESS PORT S   connect, send a byte, await one, close, and so on; prints connections a second
 *     load count PORT               count numbered datagrams until SIGTERM; prints how many came and the highest number
 *     load number ADDRESS PORT R    send R numbered datagrams a second until SIGTERM; prints how many were sent
 *     load wait                     do nothing, as a container's only process
 *
 * Times are in seconds. LOAD_CPU=N in the environment keeps it on that processor.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 65536, PIECE = 1 << 17 };
enum { STREAM = 's', ECHO = 'e', CONNECT = 'c' };

static char piece[PIECE];
static volatile sig_atomic_t ended;

static void end(int number) {
    (void)number;
    ended = 1;
}

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static struct sockaddr_in place(const char *address, const char *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    if (inet_pton(AF_INET, address, &a.sin_addr) != 1) die(address);
    return a;
}

static void no_delay(int s) {
    int on = 1;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* Per connection of the server: what it asked for, and what came of a stream. */
static struct { char kind; uint64_t bytes; } held[MOST];

static void watch(int poll, int s) {
    struct epoll_event e = {.events = EPOLLIN, .data.fd = s};
    epoll_ctl(poll, EPOLL_CTL_ADD, s, &e);
}

static void answer(int s) {
    ssize_t size = read(s, piece, held[s].kind == STREAM ? PIECE : 1);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        if (held[s].kind == STREAM && !size && write(s, &held[s].bytes, 8) != 8) perror("load: answer");
        close(s);
        return;
    }
    if (!held[s].kind) held[s].kind = *piece;
    held[s].bytes += size;
    if (held[s].kind == STREAM) return;
    if (write(s, piece, 1) != 1 || held[s].kind == CONNECT) close(s);
}

static void serve(const char *port) {
    struct epoll_event ready[64];
    struct sockaddr_in a = place("0.0.0.0", port);
    int poll = epoll_create1(0), on = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listening, (void *)&a, sizeof a) || listen(listening, 1024)) die("listen");
    watch(poll, listening);
    puts("ready");
    fflush(stdout);
    while (!ended) {
        int n = epoll_wait(poll, ready, 64, -1);
        for (int i = 0; i < n; i++) {
            int s = ready[i].data.fd;
            if (s != listening) {
                answer(s);
                continue;
            }
            for (int c; (c = accept4(listening, 0, 0, SOCK_NONBLOCK)) >= 0;) {
                no_delay(c);
                memset(&held[c], 0, sizeof *held);
                watch(poll, c);
            }
        }
    }
}

static int reach(const struct sockaddr_in *a) {
    struct timeval patience = {5, 0};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(s, (void *)a, sizeof *a)) die("connect");
    no_delay(s);
    return s;
}

static void ask(int s, char kind) {
    if (write(s, &kind, 1) != 1 || read(s, &kind, 1) != 1) die("ask");
}

static double stream(const struct sockaddr_in *a, double seconds) {
    uint64_t received;
    int s = reach(a);
    memset(piece, STREAM, sizeof piece);
    double began = now();
    while (now() - began < seconds)
        if (write(s, piece, sizeof piece) < 0) die("write");
    shutdown(s, SHUT_WR);
    if (read(s, &received, 8) != 8) die("read");
    return received * 8e-6 / (now() - began);
}

static double echo(const struct sockaddr_in *a, double seconds) {
    long count = 0;
    int s = reach(a);
    double began = now(), passed;
    for (; (passed = now() - began) < seconds; count++) ask(s, ECHO);
    return count / passed;
}

static double connections(const struct sockaddr_in *a, double seconds) {
    long count = 0;
    struct linger at_once = {1, 0};
    double began = now(), passed;
    for (; (passed = now() - began) < seconds; count++) {
        int s = reach(a);
        setsockopt(s, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        ask(s, CONNECT);
        close(s);
    }
    return count / passed;
}

static void count(const char *port) {
    struct sockaddr_in a = place("0.0.0.0", port);
    int s = socket(AF_INET, SOCK_DGRAM, 0), room = 8 << 20;
    uint64_t came = 0, highest = 0, number;
    setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    struct timeval look = {0, 100000};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &look, sizeof look);
    if (bind(s, (void *)&a, sizeof a)) die("bind");
    puts("ready");
    fflush(stdout);
    for (;;) {
        if (recv(s, &number, 8, 0) == 8) {
            came++;
            if (number > highest) highest = number;
        } else if (ended) break; /* and nothing more is on its way */
    }
    printf("%lu %lu\n", came, highest);
}

static void number(const struct sockaddr_in *a, double rate) {
    uint64_t sent = 0;
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    if (connect(s, (void *)a, sizeof *a)) die("connect");
    puts("ready");
    fflush(stdout);
    for (double began = now(); !ended; usleep(200))
        while (!ended && sent < (now() - began) * rate) {
            uint64_t next = sent + 1;
            if (send(s, &next, 8, 0) == 8) sent = next;
            else if (errno != ENOBUFS) die("send");
        }
    printf("%lu\n", sent);
}

int main(int words, char **word) {
    struct sigaction stop = {.sa_handler = end};
    sigaction(SIGTERM, &stop, 0);
    signal(SIGPIPE, SIG_IGN);
    if (getenv("LOAD_CPU")) {
        cpu_set_t only;
        CPU_ZERO(&only);
        CPU_SET(atoi(getenv("LOAD_CPU")), &only);
        sched_setaffinity(0, sizeof only, &only);
    }
    if (words == 2 && !strcmp(word[1], "wait")) {
        while (!ended) pause();
        return 0;
    }
    if (words == 3 && !strcmp(word[1], "serve")) {
        serve(word[2]);
        return 0;
    }
    if (words == 3 && !strcmp(word[1], "count")) {
        count(word[2]);
        return 0;
    }
    if (words != 5) return 2;
    struct sockaddr_in a = place(word[2], word[3]);
    double quantity = atof(word[4]);
    if (!strcmp(word[1], "stream")) printf("%.1f\n", stream(&a, quantity));
    else if (!strcmp(word[1], "echo")) printf("%.1f\n", echo(&a, quantity));
    else if (!strcmp(word[1], "connect")) printf("%.1f\n", connections(&a, quantity));
    else if (!strcmp(word[1], "number")) number(&a, quantity);
    else return 2;
    return 0;
}
