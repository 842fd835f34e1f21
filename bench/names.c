/* A bare responder, which is the floor of every name server, and a client that asks one question at a time.
 *
 *   names serve ADDRESS PORT                 answer each query with one address, whatever it asks; "ready" is printed
 *   names ask ADDRESS PORT NAME SECONDS      print the median of the microseconds that an answer took
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 12, MOST = 1 << 22 };

static const unsigned char RECORD[] = {0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 2, 88, 0, 4, 10, 0, 0, 1};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static struct sockaddr_in place(const char *address, const char *port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
    if (inet_pton(AF_INET, address, &at.sin_addr) != 1) {
        fprintf(stderr, "no address: %s\n", address);
        exit(1);
    }
    return at;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static int serve(struct sockaddr_in at) {
    unsigned char data[4096];
    int one = socket(AF_INET, SOCK_DGRAM, 0);
    if (bind(one, (struct sockaddr *)&at, sizeof at)) fail("bind");
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        ssize_t got = recvfrom(one, data, 512, 0, (struct sockaddr *)&peer, &length);
        if (got < HEADER) continue;
        data[2] |= 0x80; /* an answer, */
        data[3] = 0x80;  /* without fault, */
        data[7] = 1;     /* with one record */
        data[11] = 0;
        memcpy(data + got, RECORD, sizeof RECORD);
        sendto(one, data, (size_t)got + sizeof RECORD, 0, (struct sockaddr *)&peer, length);
    }
}

static int compare(const void *one, const void *other) {
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

static int ask(struct sockaddr_in at, const char *name, double seconds) {
    unsigned char query[300] = {0, 1, 1, 0, 0, 1}, answer[4096];
    size_t length = strlen(name), end = HEADER + length + 2, count = 0;
    float *took = malloc(MOST * sizeof *took);
    int one = socket(AF_INET, SOCK_DGRAM, 0);
    if (length > 63 || !took) return 1;
    query[HEADER] = (unsigned char)length;
    memcpy(query + HEADER + 1, name, length);
    query[end + 1] = query[end + 3] = 1; /* A, IN */
    struct timeval patience = {2, 0};
    setsockopt(one, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(one, (struct sockaddr *)&at, sizeof at)) fail("connect");
    for (double until = now() + seconds * 1e6, began; (began = now()) < until && count < MOST; count++) {
        if (send(one, query, end + 4, 0) < 0 || recv(one, answer, sizeof answer, 0) <= HEADER) fail("ask");
        if (answer[7] != 1) {
            fprintf(stderr, "no answer to %s\n", name);
            return 1;
        }
        took[count] = (float)(now() - began);
    }
    qsort(took, count, sizeof *took, compare);
    printf("%.2f\n", took[count / 2]);
    return 0;
}

int main(int count, char **words) {
    if (count == 4 && !strcmp(words[1], "serve")) return serve(place(words[2], words[3]));
    if (count == 6 && !strcmp(words[1], "ask")) return ask(place(words[2], words[3]), words[4], atof(words[5]));
    fprintf(stderr, "see the head of names.c\n");
    return 1;
}
