/* The floor: what the kernel itself takes to attach a network namespace to a bridge or to a parent's wire and to detach
 * it, asked as cheaply as it can be asked: raw rtnetlink, written ahead, sent in batches, one acknowledgement for each
 * batch.
 *
 * What it leaves is what our own networks leave, without mark and record: a namespace with lo up and IPv6 off for the
 * links to come; a pair of veths with one queue, of which one end is born in the namespace as eth0 and the other on the
 * bridge, without a link-local address, or a macvlan in mode bridge that is born there as eth0; an address and a default
 * route inside.
 *
 * It is driven line by line, so that its work can be interleaved with that of others. It runs in a network namespace that
 * is its own. Each command answers with a line: the microseconds that the work took.
 *
 *     bridge          make the bridge, up, with 10.88.0.1/16
 *     parent          make the parent, up: a veth whose other end, up, leads nowhere
 *     space K         make namespace K (0..8191) and open a socket in it
 *     attach K        attach namespace K to the bridge
 *     born K          both
 *     detach K        delete the pair of K; the kernel answers when it is gone
 *     detach-all      delete all pairs in one message, by their group
 *     stand K         attach namespace K to the parent
 *     fall K          delete the macvlan of K; the kernel answers when it is gone
 *     free K          let namespace K go; the kernel takes it apart afterwards
 *     settle          wait until the kernel has taken apart all namespaces that were let go
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 8192, GROUP = 4711, BASE = 1 << 21, LO = 1, MARKER = BASE - 4, BRIDGE = BASE - 8, PARENT = BASE - 12 };

static int host_netns, host_socket;
static int netns[MOST], inner_socket[MOST];

/* Messages that wait to be sent together. */
static char batch[4096];
static size_t length;
static struct nlmsghdr *last;
static unsigned sequence;

static void die(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

static int route_socket(void) {
    struct sockaddr_nl own = {.nl_family = AF_NETLINK};
    int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), on = 1;
    if (s < 0 || bind(s, (void *)&own, sizeof own)) die("socket");
    setsockopt(s, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    return s;
}

/* Begin a message with its fixed part. */
static void begin(int type, int flags, const void *fixed, size_t size) {
    last = (void *)(batch + length);
    memset(last, 0, NLMSG_SPACE(size));
    last->nlmsg_type = type;
    last->nlmsg_flags = NLM_F_REQUEST | flags;
    last->nlmsg_seq = ++sequence;
    memcpy(NLMSG_DATA(last), fixed, size);
    length += NLMSG_SPACE(size);
    last->nlmsg_len = NLMSG_LENGTH(size);
}

static struct rtattr *put(int kind, const void *value, size_t size) {
    struct rtattr *a = (void *)(batch + length);
    a->rta_type = kind;
    a->rta_len = RTA_LENGTH(size);
    if (size) memcpy(RTA_DATA(a), value, size);
    length += RTA_SPACE(size);
    last->nlmsg_len = batch + length - (char *)last;
    return a;
}

static void put_u32(int kind, unsigned value) { put(kind, &value, sizeof value); }

static void end(struct rtattr *nest) { nest->rta_len = batch + length - (char *)nest; }

/* Send what waits; the kernel has done it when the send returns. Returns an errno, of the first message refused. */
static int flush(int s) {
    char answer[8192];
    last->nlmsg_flags |= NLM_F_ACK;
    ssize_t sent = send(s, batch, length, 0);
    length = 0;
    if (sent < 0) die("send");
    for (int failed = 0;;) {
        ssize_t size = recv(s, answer, sizeof answer, 0);
        if (size < 0) die("recv");
        struct nlmsghdr *h = (void *)answer;
        int error = -((struct nlmsgerr *)NLMSG_DATA(h))->error;
        if (error && !failed) failed = error;
        if (h->nlmsg_seq == sequence) return failed;
    }
}

static void must(int s, const char *what) {
    if ((errno = flush(s))) die(what);
}

static void set_up(int index) {
    struct ifinfomsg i = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    begin(RTM_NEWLINK, 0, &i, sizeof i);
}

static void no_link_local(int index) {
    struct ifinfomsg i = {.ifi_index = index};
    unsigned char none = IN6_ADDR_GEN_MODE_NONE;
    begin(RTM_NEWLINK, 0, &i, sizeof i);
    struct rtattr *spec = put(IFLA_AF_SPEC, 0, 0), *inet6 = put(AF_INET6, 0, 0);
    put(IFLA_INET6_ADDR_GEN_MODE, &none, 1);
    end(inet6);
    end(spec);
}

static void add_address(int index, unsigned ip, int prefix) {
    struct ifaddrmsg a = {.ifa_family = AF_INET, .ifa_prefixlen = prefix, .ifa_index = index};
    ip = htonl(ip);
    begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &a, sizeof a);
    put(IFA_LOCAL, &ip, 4);
    put(IFA_ADDRESS, &ip, 4);
}

static void add_pair(const char *name, int index, int group, int master, const char *peer, int netns_of_peer) {
    struct ifinfomsg i = {.ifi_index = index}, p = {.ifi_index = index + 1};
    begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &i, sizeof i);
    put(IFLA_IFNAME, name, strlen(name) + 1);
    put_u32(IFLA_NUM_TX_QUEUES, 1);
    put_u32(IFLA_NUM_RX_QUEUES, 1);
    if (group) put_u32(IFLA_GROUP, group);
    if (master) put_u32(IFLA_MASTER, master);
    struct rtattr *info = put(IFLA_LINKINFO, 0, 0);
    put(IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = put(IFLA_INFO_DATA, 0, 0), *other = put(VETH_INFO_PEER, &p, sizeof p);
    put(IFLA_IFNAME, peer, strlen(peer) + 1);
    put_u32(IFLA_NUM_TX_QUEUES, 1);
    put_u32(IFLA_NUM_RX_QUEUES, 1);
    put_u32(IFLA_NET_NS_FD, netns_of_peer);
    end(other);
    end(data);
    end(info);
}

static void make_bridge(void) {
    struct ifinfomsg i = {.ifi_index = BRIDGE};
    begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &i, sizeof i);
    put(IFLA_IFNAME, "floor0", 7);
    struct rtattr *info = put(IFLA_LINKINFO, 0, 0);
    put(IFLA_INFO_KIND, "bridge", 6);
    end(info);
    no_link_local(BRIDGE);
    set_up(BRIDGE);
    add_address(BRIDGE, 0x0a580001, 16);
    must(host_socket, "bridge");
}

static void make_space(int k) {
    if (unshare(CLONE_NEWNET)) die("unshare");
    netns[k] = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    int setting = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC);
    if (setting >= 0) {
        if (write(setting, "1", 1) != 1) die("disable_ipv6");
        close(setting);
    }
    inner_socket[k] = route_socket();
    set_up(LO);
    must(inner_socket[k], "lo");
    if (setns(host_netns, CLONE_NEWNET)) die("setns");
}

static void make_parent(void) {
    add_pair("floor1", PARENT, 0, 0, "floor2", host_netns);
    no_link_local(PARENT);
    no_link_local(PARENT + 1);
    set_up(PARENT + 1);
    set_up(PARENT);
    must(host_socket, "parent");
}

/* Set the link of this index up, in namespace K, and give it an address and the default route. */
static void furnish(int k, int index) {
    struct rtmsg r = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT,
                      .rtm_scope = RT_SCOPE_UNIVERSE, .rtm_type = RTN_UNICAST};
    set_up(index);
    add_address(index, 0x0a580000 + 2 + k, 16);
    begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &r, sizeof r);
    put_u32(RTA_GATEWAY, htonl(0x0a580001));
    put_u32(RTA_OIF, index);
    must(inner_socket[k], "attach, inside");
}

static void attach(int k) {
    int index = BASE + 2 * k;
    char name[16];
    snprintf(name, sizeof name, "v%d", k);
    add_pair(name, index, GROUP, BRIDGE, "eth0", netns[k]);
    no_link_local(index);
    set_up(index);
    must(host_socket, "attach, on the host");
    furnish(k, index + 1);
}

static void stand(int k) {
    struct ifinfomsg i = {.ifi_index = BASE + 2 * k};
    begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &i, sizeof i);
    put(IFLA_IFNAME, "eth0", 5);
    put_u32(IFLA_LINK, PARENT);
    put_u32(IFLA_NET_NS_FD, netns[k]);
    struct rtattr *info = put(IFLA_LINKINFO, 0, 0);
    put(IFLA_INFO_KIND, "macvlan", 7);
    struct rtattr *data = put(IFLA_INFO_DATA, 0, 0);
    put_u32(IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE);
    end(data);
    end(info);
    must(host_socket, "stand, on the host");
    furnish(k, i.ifi_index);
}

static void detach(int k, int from) {
    struct ifinfomsg i = {.ifi_index = BASE + 2 * k};
    begin(RTM_DELLINK, 0, &i, sizeof i);
    must(from, "detach");
}

static void detach_all(void) {
    struct ifinfomsg i = {0};
    begin(RTM_DELLINK, 0, &i, sizeof i);
    put_u32(IFLA_GROUP, GROUP);
    must(host_socket, "detach-all");
}

static void release(int k) {
    close(inner_socket[k]);
    close(netns[k]);
}

/* The kernel takes namespaces apart in the order of their end, and their links with them: so when the link that leads
 * into one that ends now is gone, all that ended before are gone. */
static void settle(void) {
    struct ifinfomsg i = {.ifi_index = MARKER};
    make_space(MOST - 1);
    add_pair("marker", MARKER, 0, 0, "marker", netns[MOST - 1]);
    must(host_socket, "settle");
    release(MOST - 1);
    do {
        usleep(2000);
        begin(RTM_NEWLINK, 0, &i, sizeof i);
    } while (!flush(host_socket));
}

int main(void) {
    char line[64], word[16];
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    host_netns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    host_socket = route_socket();
    while (fgets(line, sizeof line, stdin)) {
        int k = 0, words = sscanf(line, "%15s %d", word, &k);
        if (words < 1 || k < 0 || k >= MOST) return 2;
        double began = now();
        if (!strcmp(word, "bridge")) make_bridge();
        else if (!strcmp(word, "space")) make_space(k);
        else if (!strcmp(word, "attach")) attach(k);
        else if (!strcmp(word, "born")) make_space(k), attach(k);
        else if (!strcmp(word, "detach")) detach(k, host_socket);
        else if (!strcmp(word, "parent")) make_parent();
        else if (!strcmp(word, "stand")) stand(k);
        else if (!strcmp(word, "fall")) detach(k, inner_socket[k]);
        else if (!strcmp(word, "detach-all")) detach_all();
        else if (!strcmp(word, "free")) release(k);
        else if (!strcmp(word, "settle")) settle();
        else return 2;
        printf("%.1f\n", now() - began);
        fflush(stdout);
    }
    return 0;
}
