/* The clock of the benchmarks: everything whose time counts is started, watched and timed here, in a program so small that it
 * does not disturb what it measures (a child's "max RSS" is never below that of who started it). One mode per question; each prints raw
 * numbers, one sample a line, `LABEL VALUE...`; bench/run makes tables of them.
 *
 * Every mode runs in a network namespace of its own, where it may have one: no port is taken by somebody else, and no other traffic
 * wakes anybody.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void die(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	fputs("driver: ", stderr);
	vfprintf(stderr, format, list);
	fprintf(stderr, " (%s)\n", strerror(errno));
	exit(1);
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void pause_us(int64_t us)
{
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };

	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

/* A network namespace with nothing but loopback. Without the right to make one, the machine's own has to do. */
static void own_network(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd;

	if (unshare(CLONE_NEWNET))
		return;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request))
		die("loopback cannot be brought up");
	close(fd);
}

/* Starts argv; `out` and `err` replace its stdout and stderr where they are not -1. vfork inside, so that our size costs nothing. */
static pid_t start(char **argv, int in, int out, int err)
{
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int error;

	posix_spawn_file_actions_init(&actions);
	if (in >= 0)
		posix_spawn_file_actions_adddup2(&actions, in, 0);
	if (out >= 0)
		posix_spawn_file_actions_adddup2(&actions, out, 1);
	if (err >= 0)
		posix_spawn_file_actions_adddup2(&actions, err, 2);
	error = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (error) {
		errno = error;
		die("%s", argv[0]);
	}
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGTERM);
	waitpid(pid, NULL, 0);
}

static int64_t microseconds(struct timeval t) { return t.tv_sec * 1000000LL + t.tv_usec; }

/* ---- what stands around: a web server of one loop, its visitor, and a crowd of sockets ------------------------------------------- */

static int listen_on(int port, int backlog)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, backlog)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Answers every request with 200, for ever. */
static void serve(int fd)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
	char request[2048];

	for (;;) {
		int client = accept(fd, NULL, NULL);

		if (client < 0)
			continue;
		if (read(client, request, sizeof request) > 0)
			(void)!write(client, answer, sizeof answer - 1);
		close(client);
	}
}

/* Forks a child that dies with us. */
static pid_t companion(void)
{
	pid_t parent = getpid(), pid = fork();

	if (pid < 0)
		die("fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(0);
	}
	return pid;
}

/* Connects, asks and reads once; -1 if refused, -2 if cut off, else ns. */
static int64_t visit(int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int64_t begin = now();
	char answer[256];
	int64_t result;

	if (connect(fd, (struct sockaddr *)&to, sizeof to))
		result = -1;
	else if (write(fd, "GET / HTTP/1.1\r\n\r\n", 18) != 18 || read(fd, answer, sizeof answer) < 12)
		result = -2;
	else
		result = now() - begin;
	close(fd);
	return result;
}

static void until_answered(int port)
{
	for (int64_t begin = now(); visit(port) < 0; pause_us(1000))
		if (now() - begin > 5000000000LL)
			die("nobody answers on port %d", port);
}

/* Holds `pairs` connections over loopback, both ends, in a process of its own: few may open very many files. */
static void crowd(int port, int pairs)
{
	int ready[2], listener;
	char byte;

	if (pipe2(ready, O_CLOEXEC))
		die("pipe");
	if (companion() == 0) {
		listener = listen_on(port, 4096);
		for (int i = 0; i < pairs; i++) {
			struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
			int fd = socket(AF_INET, SOCK_STREAM, 0);

			to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
			if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) || accept(listener, NULL, NULL) < 0)
				die("connection %d of %d", i, pairs);
		}
		(void)!write(ready[1], "", 1);
		for (;;)
			pause();
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		die("no crowd of sockets");
	close(ready[0]);
}

static void with_sockets(int count)
{
	struct rlimit limit;
	int most;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_max < 300)
		die("RLIMIT_NOFILE");
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	most = limit.rlim_cur > 20000 ? 9900 : (int)(limit.rlim_cur / 2) - 100;
	for (int pairs = count / 2, port = 9; pairs > 0; pairs -= most, port++)
		crowd(port, pairs < most ? pairs : most);
}

/* So many other programs, each with the driver's descriptors and ten more. */
static void with_programs(int count)
{
	for (; count > 0; count--)
		if (companion() == 0) {
			for (int more = 0; more < 10; more++)
				(void)!dup(2);
			for (;;)
				pause();
		}
}

/* ---- spawn: what one whole life of a program costs -------------------------------------------------------------------------- */

#define MOST_PEERS 32
#define MOST_WORDS 256

struct peer {
	char *label;
	char *argv[MOST_WORDS];
	/* Where all run beside each other: its pid, and where its app answers. */
	pid_t pid;
	int answers;
};

static struct peer peers[MOST_PEERS];

/* `LABEL WORD... ,, LABEL WORD...` */
static int read_peers(char **words)
{
	int count = 0, at = 0;

	for (; *words; words++) {
		if (!strcmp(*words, ",,")) {
			count++;
			at = 0;
			continue;
		}
		if (count >= MOST_PEERS || at > MOST_WORDS - 2)
			die("too many words");
		if (at == 0)
			peers[count].label = *words;
		else
			peers[count].argv[at - 1] = *words;
		at++;
	}
	return count + (at > 0);
}

/* What is started from now on lives in a container's namespaces; the first is PID 1 there, and must mount its /proc. */
static void own_processes(void)
{
	if (unshare(CLONE_NEWPID | CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("namespaces of its own");
}

/* Every round the peers take turns in another order. In turns, what disturbs one disturbs all; in another order, because a program finds
 * the caches as the one before it has left them, and would always follow the same one. */
static void shuffle(int count)
{
	for (int last = count - 1; last > 0; last--) {
		int other = rand() % (last + 1);
		struct peer peer = peers[last];

		peers[last] = peers[other];
		peers[other] = peer;
	}
}

/* A peer labelled `beside` is started first, has to answer on port 8080, and is there all the while; so is one labelled `pid1`, as PID 1.
 * `LABEL wall_ns cpu_us max_rss_kib minor_faults` */
static void spawn_mode(int rounds, char **words)
{
	int count = read_peers(words), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t beside = 0;

	if (!strcmp(peers[0].label, "pid1"))
		own_processes();
	if (!strcmp(peers[0].label, "beside") || !strcmp(peers[0].label, "pid1")) {
		beside = start(peers[0].argv, null, null, null);
		until_answered(8080);
		count--;
		memmove(peers, peers + 1, count * sizeof *peers);
	}

	for (int round = -3; round < rounds; round++) {
		shuffle(count);
		for (int i = 0; i < count; i++) {
			struct peer *peer = &peers[i];
			struct rusage usage;
			int64_t begin = now(), wall;
			pid_t pid = start(peer->argv, null, null, null);
			int status;

			if (wait4(pid, &status, 0, &usage) != pid)
				die("wait4");
			wall = now() - begin;
			/* 1 is an answer of `who`: somebody has the port. */
			if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
				die("%s: status %#x", peer->label, status);
			if (round >= 0)
				printf("%s %ld %ld %ld %ld\n", peer->label, (long)wall,
				       (long)(microseconds(usage.ru_utime) + microseconds(usage.ru_stime)), usage.ru_maxrss,
				       usage.ru_minflt);
		}
	}
	if (beside)
		end(beside);
}

/* ---- freed: from a port that becomes free to a listen() that succeeded -------------------------------------------------------- */

/* Whether somebody listens on the port of this family, with the socket's inode: one exact question to the kernel, 3 us, without a trace
 * in it. */
static int diag;

static uint32_t inode_of_family(int family, int port)
{
	struct {
		struct nlmsghdr head;
		struct inet_diag_req_v2 ask;
	} request = {
		.head = { .nlmsg_len = sizeof request, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST },
		.ask = { .sdiag_family = family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = -1,
			 .id = { .idiag_sport = htons(port), .idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } } },
	};
	union {
		struct nlmsghdr head;
		char bytes[2048];
	} answer;
	struct inet_diag_msg *found;

	if (send(diag, &request, sizeof request, 0) < 0 || recv(diag, &answer, sizeof answer, 0) < 0)
		die("sock_diag");
	if (answer.head.nlmsg_type == NLMSG_ERROR)
		return 0;
	found = NLMSG_DATA(&answer.head);
	/* 10 is TCP_LISTEN. */
	return found->id.idiag_sport == htons(port) && found->idiag_state == 10 && found->idiag_family == family
		       ? found->idiag_inode
		       : 0;
}

/* Whether somebody listens who is not the holder. reberth's wildcard is one dual-stack socket, an app's may be of either family; holders
 * are IPv4. */
static int is_taken(int port, int64_t holder)
{
	uint32_t inode = inode_of_family(AF_INET6, port);

	if (!inode)
		inode = inode_of_family(AF_INET, port);
	return inode && inode != holder;
}

static char process_state(pid_t pid)
{
	char path[64], text[512], *end;
	int fd;
	ssize_t size;

	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY);
	size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	if (size <= 0)
		return 'X';
	text[size] = 0;
	end = strrchr(text, ')');
	return end ? end[2] : 'X';
}

static long switches(pid_t pid)
{
	char path[64], line[256];
	long sum = 0, value;
	FILE *file;

	snprintf(path, sizeof path, "/proc/%d/status", pid);
	file = fopen(path, "r");
	while (file && fgets(line, sizeof line, file))
		if (sscanf(line, "voluntary_ctxt_switches: %ld", &value) == 1)
			sum += value;
	if (file)
		fclose(file);
	return sum;
}

/* Waits until the program has said something (its first line: it waits for the port; with --prewarm: its app waits in its bind) and
 * then sleeps. */
static void until_asleep(char **argv, pid_t pid, int log)
{
	struct pollfd wait = { .fd = log, .events = POLLIN };
	char text[4096], last[8192] = "";
	const char *needle = "";
	int64_t end = now() + 20000000000LL;
	long before = -1;

	for (; *argv; argv++)
		if (!strcmp(*argv, "--prewarm"))
			needle = "waits in its bind";
	do {
		ssize_t size = poll(&wait, 1, 20000) == 1 ? read(log, text, sizeof text - 1) : 0;

		if (size <= 0 || now() >= end)
			die("it never said that it waits");
		text[size] = 0;
		/* A line may come in two pieces. */
		memmove(last, last + strlen(last) / 2, strlen(last) - strlen(last) / 2 + 1);
		strncat(last, text, sizeof last - strlen(last) - 1);
	} while (!strstr(last, needle));
	while (now() < end) {
		if (process_state(pid) == 'S') {
			long count = switches(pid);
			if (count == before)
				return;
			before = count;
		}
		pause_us(300);
	}
	die("it never slept");
}

/* Keeps a process on one CPU; `pid` 0 is this one. With one CPU only, everybody stays where they are. */
static void pin(pid_t pid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(pid, sizeof set, &set);
}

/* Holds the port on CPU 1 until a byte comes; closes it then, and tells when, in `freed[0]`; `freed[1]` is its socket's inode. The kernel tells of a closed socket from the CPU that closed
 * it: on the observer's that news would wait for the observer. */
static pid_t hold(int port, int *tell, int *told, int64_t *freed)
{
	int order[2], ready[2], listener;
	struct stat its;
	char byte;
	pid_t pid;

	if (pipe2(order, O_CLOEXEC) || pipe2(ready, O_CLOEXEC))
		die("pipe");
	pid = companion();
	if (pid == 0) {
		close(order[1]);
		close(ready[0]);
		pin(0, 1);
		listener = listen_on(port, 1);
		if (listener < 0)
			_exit(1);
		fstat(listener, &its);
		freed[1] = its.st_ino;
		(void)!write(ready[1], "", 1);
		if (read(order[0], &byte, 1) == 1) {
			*freed = now();
			close(listener);
		}
		for (;;)
			pause();
	}
	close(order[0]);
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		die("no holder");
	*tell = order[1];
	*told = ready[0];
	return pid;
}

/* The least that can wait on the kernel's events: it asks to be told of every TCP socket that ends, tries, sleeps until one does, and
 * tries again. What it takes is what the kernel takes: the limit, as the static no-op is one of a start. */
static void bare_waiter(int port)
{
	struct sockaddr_nl news = { .nl_family = AF_NETLINK,
				    .nl_groups = 1 << (SKNLGRP_INET_TCP_DESTROY - 1) | 1 << (SKNLGRP_INET6_TCP_DESTROY - 1) };
	struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int events = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), zero = 0, on = 1;
	/* One socket for every try: one that is closed is told of too, and the news of it would be the next try's reason, for ever. */
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char text[4096];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (events < 0 || bind(events, (struct sockaddr *)&news, sizeof news))
		die("sock_diag events");
	if (fd < 0)
		die("a dual-stack socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
	for (int told = 0; bind(fd, (struct sockaddr *)&at, sizeof at); told = 1) {
		if (!told)
			(void)!write(2, "waiting\n", 8);
		if (recv(events, text, sizeof text, 0) < 0)
			die("sock_diag events");
	}
	if (listen(fd, 4096))
		die("listen");
	for (;;)
		pause();
}

/* `LABEL-close ns` or `LABEL-kill ns`: from the holder's close(), or the SIGKILL sent to it, until the peer, which waits for port 7878,
 * listens there; its app is of no interest. The observer, who asks without pause, has a CPU of its own: on the one of those it watches the
 * scheduler would make them wait for it, and that would be what is measured. */
static void freed_round(struct peer *peer, int killed, int64_t *freed, int counts)
{
	const int port = 7878;
	int log[2], tell, told;
	int64_t stop, taken;
	pid_t pid, holder;

	if (pipe2(log, O_CLOEXEC | O_NONBLOCK))
		die("pipe");
	holder = hold(port, &tell, &told, freed);
	pid = start(peer->argv, -1, -1, log[1]);
	pin(pid, 1);
	close(log[1]);
	until_asleep(peer->argv, pid, log[0]);
	/* Not in step with whatever the waiter does on its own. */
	pause_us(500 + rand() % 3000);
	*freed = now();
	stop = *freed + 5000000000LL;
	if (killed)
		kill(holder, SIGKILL);
	else if (write(tell, "", 1) != 1)
		die("write");
	while (!is_taken(port, freed[1]) && now() < stop)
		;
	taken = now();
	if (taken >= stop)
		die("nobody took the port");
	if (counts)
		printf("%s-%s %ld\n", peer->label, killed ? "kill" : "close", (long)(taken - *freed));
	kill(holder, SIGKILL);
	waitpid(holder, NULL, 0);
	end(pid);
	close(log[0]);
	close(tell);
	close(told);
}

static void freed_mode(int rounds, char **words)
{
	int64_t *freed = mmap(NULL, 2 * sizeof *freed, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int count = read_peers(words);

	diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	pin(0, 0);
	for (int round = -1; round < rounds; round++)
		for (int killed = 0; killed < 2; killed++) {
			shuffle(count);
			for (int i = 0; i < count; i++)
				freed_round(&peers[i], killed, freed, round >= 0);
		}
}

/* The same for whoever only looks now and then: `poll us`. Many at once, each on its own port, since they mostly sleep. The holder
 * lets go at any moment of the period. */
static void poll_mode(int rounds, int64_t period_us)
{
	const int batch = 100;
	int64_t *freed = mmap(NULL, batch * sizeof *freed, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int64_t *taken = mmap(NULL, batch * sizeof *taken, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	/* A quick poller burns a core by itself: only few of those at a time. */
	for (int done = 0; done < rounds;) {
		int many = period_us >= 100000 ? batch : 4, holders[100];

		for (int i = 0; i < many; i++) {
			holders[i] = listen_on(10000 + i, 1);
			if (holders[i] < 0)
				die("no holder");
			if (companion() == 0) {
				int fd;

				for (int j = 0; j <= i; j++)
					close(holders[j]);
				prctl(PR_SET_TIMERSLACK, 1UL);
				pause_us(rand() % 1000 * i);
				while ((fd = listen_on(10000 + i, 1)) < 0)
					pause_us(period_us);
				taken[i] = now();
				close(fd);
				_exit(0);
			}
		}
		pause_us(200000 + period_us);
		for (int i = 0; i < many; i++) {
			pause_us(rand() % (2 * period_us / many + 1));
			freed[i] = now();
			close(holders[i]);
		}
		while (wait(NULL) > 0)
			;
		for (int i = 0; i < many && done < rounds; i++, done++)
			printf("poll %ld\n", (long)(taken[i] - freed[i]));
	}
}

/* Wake-ups and CPU of a waiter whose port stays busy: `waiting WAKEUPS CPU_US SECONDS` */
static void waiting_mode(int seconds, char **argv)
{
	int log[2], holder = listen_on(7878, 1);
	struct rusage usage;
	long before, after;
	pid_t pid;

	if (holder < 0 || pipe2(log, O_CLOEXEC | O_NONBLOCK))
		die("no holder");
	pid = start(argv, -1, -1, log[1]);
	until_asleep(argv, pid, log[0]);
	pause_us(500000);
	before = switches(pid);
	pause_us(seconds * 1000000LL);
	after = switches(pid);
	kill(pid, SIGTERM);
	wait4(pid, NULL, 0, &usage);
	printf("waiting %ld %ld %d\n", after - before, (long)(microseconds(usage.ru_utime) + microseconds(usage.ru_stime)), seconds);
}

/* ---- idle: memory and wake-ups of a supervisor whose app runs ------------------------------------------------------------------ */

static void print_memory(const char *label, pid_t pid, long wakeups, int seconds)
{
	char path[64], line[256];
	long rss = 0, dirty = 0, value;
	FILE *file;

	snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
	file = fopen(path, "r");
	while (file && fgets(line, sizeof line, file)) {
		if (sscanf(line, "Rss: %ld", &value) == 1)
			rss = value;
		if (sscanf(line, "Private_Dirty: %ld", &value) == 1)
			dirty = value;
	}
	if (file)
		fclose(file);
	printf("%s %ld %ld %ld %d\n", label, rss, dirty, wakeups, seconds);
}

/* All peers at once, since they only sleep: `LABEL rss_kib private_dirty_kib wakeups seconds` */
static void idle_mode(int seconds, char **words)
{
	int count = read_peers(words), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	long before[MOST_PEERS];

	for (int i = 0; i < count; i++)
		peers[i].pid = start(peers[i].argv, null, null, null);
	pause_us(1500000);
	/* Pages of a file that is not yet on disk count as dirty, whoever maps them. */
	sync();
	for (int i = 0; i < count; i++)
		before[i] = switches(peers[i].pid);
	pause_us(seconds * 1000000LL);
	for (int i = 0; i < count; i++)
		print_memory(peers[i].label, peers[i].pid, switches(peers[i].pid) - before[i], seconds);
	for (int i = 0; i < count; i++)
		end(peers[i].pid);
}

/* ---- signal: from kill() to the app's handler ----------------------------------------------------------------------------------- */

static volatile int64_t heard;

static void hear(int signal)
{
	(void)signal;
	heard = now();
}

/* The app: tells when a USR1 came, 8 bytes on stdout; TERM ends it. */
static void signal_app(void)
{
	sigset_t mask, open_mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigprocmask(SIG_BLOCK, &mask, &open_mask);
	sigdelset(&open_mask, SIGUSR1);
	signal(SIGUSR1, hear);
	(void)!write(1, (char *)&(int64_t){ 0 }, 8);
	for (;;) {
		sigsuspend(&open_mask);
		(void)!write(1, (char *)&heard, 8);
	}
}

/* `LABEL ns`. USR1 goes the way of TERM, without its end. */
static void signal_mode(int rounds, char **words)
{
	int count = read_peers(words), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int64_t begin, came;

	for (int i = 0; i < count; i++) {
		int out[2];

		if (pipe2(out, O_CLOEXEC))
			die("pipe");
		peers[i].pid = start(peers[i].argv, null, out[1], null);
		close(out[1]);
		peers[i].answers = out[0];
		if (read(out[0], &came, 8) != 8)
			die("%s: its app never started", peers[i].label);
	}
	for (int round = -5; round < rounds; round++) {
		shuffle(count);
		for (int i = 0; i < count; i++) {
			pause_us(200 + rand() % 300);
			begin = now();
			kill(peers[i].pid, SIGUSR1);
			if (read(peers[i].answers, &came, 8) != 8)
				die("%s: gone", peers[i].label);
			if (round >= 0)
				printf("%s %ld\n", peers[i].label, (long)(came - begin));
		}
	}
	for (int i = 0; i < count; i++)
		end(peers[i].pid);
}

/* ---- orphans: how fast PID 1 reaps ---------------------------------------------------------------------------------------------- */

/* The app: says that it is up, on a line from stdin makes orphans that end at once, says so, and after another line tells how long it took until none of
 * them was left, and its clock. */
static void orphan_app(int count)
{
	pid_t *pids = mmap(NULL, count * sizeof *pids, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char byte;
	int64_t gone;

	(void)!write(1, "u", 1);
	if (read(0, &byte, 1) != 1)
		_exit(1);
	for (int i = 0; i < count; i++) {
		pid_t pid = vfork();

		if (pid == 0) {
			pids[i] = vfork();
			_exit(pids[i] < 0);
		}
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			_exit(1);
	}
	(void)!write(1, "m", 1);
	if (read(0, &byte, 1) != 1)
		_exit(1);
	for (int i = 0; i < count; i++)
		while (kill(pids[i], 0) == 0)
			sched_yield();
	gone = now();
	(void)!write(1, &gone, 8);
	for (;;)
		pause();
}

/* `LABEL count ns cpu_us`: the supervisor is PID 1 of a namespace, stopped from outside while the orphans end, and then let go. */
static void orphans_mode(int count, int rounds, char **words)
{
	int peers_count = read_peers(words);

	for (int round = 0; round < rounds; round++) {
		shuffle(peers_count);
		for (int i = 0; i < peers_count; i++) {
			int in[2], out[2];
			int64_t begin, gone;
			struct rusage usage;
			char byte;
			pid_t pid;

			if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
				die("pipe");
			pid = fork();
			if (pid == 0) {
				pid_t inner;
				int status;

				prctl(PR_SET_PDEATHSIG, SIGKILL);
				if (unshare(CLONE_NEWPID))
					die("a PID namespace");
				inner = start(peers[i].argv, in[0], out[1], -1);
				close(in[0]);
				close(out[1]);
				/* The app is up, so PID 1 has no start of its own left to be stopped in. */
				if (read(out[0], &byte, 1) != 1)
					die("%s: its app never started", peers[i].label);
				pause_us(20000);
				kill(inner, SIGSTOP);
				if (write(in[1], "\n", 1) != 1)
					die("write");
				if (read(out[0], &byte, 1) != 1)
					die("%s: no orphans", peers[i].label);
				pause_us(20000);
				if (write(in[1], "\n", 1) != 1)
					die("write");
				pause_us(5000);
				begin = now();
				kill(inner, SIGCONT);
				if (read(out[0], &gone, 8) != 8)
					die("%s: not all reaped", peers[i].label);
				kill(inner, SIGTERM);
				wait4(inner, &status, 0, &usage);
				printf("%s %d %ld %ld\n", peers[i].label, count, (long)(gone - begin),
				       (long)(microseconds(usage.ru_utime) + microseconds(usage.ru_stime)));
				fflush(stdout);
				_exit(0);
			}
			close(in[0]);
			close(in[1]);
			close(out[0]);
			close(out[1]);
			waitpid(pid, NULL, 0);
		}
	}
}

/* ---- clients: who is refused while one instance follows another ------------------------------------------------------------------ */

/* The app of the clients' test: boots for a while, then serves fd 3 or, with a port, a socket of its own. */
static void boot_app(int boot_ms, const char *place)
{
	int fd;

	pause_us(boot_ms * 1000LL);
	fd = strncmp(place, "fd:", 3) ? listen_on(atoi(place), 4096) : atoi(place + 3);
	if (fd < 0)
		_exit(1);
	serve(fd);
}

/* The app of the calls' test: each bind(2) and each getppid(2), timed. `bind NS`, `getppid NS_FOR_A_HUNDRED` */
static void calls_app(int count, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int one = 1;

	for (int i = 0; i < count; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		int64_t begin;

		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		begin = now();
		if (bind(fd, (struct sockaddr *)&to, sizeof to))
			_exit(1);
		printf("bind %ld\n", (long)(now() - begin));
		close(fd);
	}
	for (int i = 0; i < count; i++) {
		int64_t begin = now();

		for (int call = 0; call < 100; call++)
			syscall(SYS_getppid);
		printf("getppid %ld\n", (long)(now() - begin));
	}
	fflush(stdout);
	_exit(0);
}

/* Puts a filter on itself that allows everything, as a container has a profile, and becomes argv. */
static void profiled(char **argv)
{
	struct sock_filter all[] = { { 0x06, 0, 0, 0x7fff0000 } };
	struct sock_fprog program = { 1, all };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &program))
		die("no filter");
	execv(argv[0], argv);
	die("%s", argv[0]);
}

/* True once the program has said that it has the port. */
static int says_claimed(int log)
{
	char text[4096];
	ssize_t size = read(log, text, sizeof text - 1);

	text[size > 0 ? size : 0] = 0;
	return strstr(text, " claimed") != NULL;
}

/* A parent that holds the port and passes it to its app, as systemd does by LISTEN_FDS; the app is started again when it ends. A TERM of
 * the parent is the app's. */
static pid_t passed_to;

static void pass_on(int signal)
{
	kill(passed_to, signal);
}

static void passing_parent(int port, char **argv)
{
	int fd;

	/* The app of the round before may be about to die of its parent's death. */
	while ((fd = listen_on(port, 4096)) < 0)
		pause_us(1000);
	if ((fd == 3 ? fcntl(fd, F_SETFD, 0) : dup2(fd, 3)) < 0)
		die("no socket to pass");
	signal(SIGTERM, pass_on);
	for (;;) {
		passed_to = companion();
		if (passed_to == 0) {
			signal(SIGTERM, SIG_DFL);
			execv(argv[0], argv);
			_exit(127);
		}
		while (waitpid(passed_to, NULL, 0) < 0 && errno == EINTR)
			;
	}
}

/* How the second instance follows the first: it waits for the port beside it; or it is started when the first has ended, as an engine
 * restarts a container; or there is a parent that starts the app again. */
enum follows { BESIDE, AFTERWARDS, BELOW };

/* Two instances of argv; the first gets TERM, and 600 clients come, one a millisecond, each in a process of its own.
 * `clients REFUSED REFUSED_AFTER_THE_CLAIM CUT_OFF LONGEST_NS`, the second 0 where nobody claims. */
static void clients_mode(int rounds, enum follows how, char **argv)
{
	const int visitors = 600;
	int64_t *results = mmap(NULL, visitors * sizeof *results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int64_t *came = mmap(NULL, visitors * sizeof *came, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int round = 0; round < rounds; round++) {
		int log[2], refused = 0, late = 0, cut = 0, gone = 0;
		int64_t begin, claimed = 0, longest = 0;
		pid_t first = start(argv, null, null, null), second = first, it;

		if (pipe2(log, O_CLOEXEC | O_NONBLOCK))
			die("pipe");
		until_answered(7878);
		if (how == BESIDE) {
			second = start(argv, null, null, log[1]);
			until_asleep(argv, second, log[0]);
		}
		close(log[1]);
		begin = now();
		for (int i = 0; i < visitors; i++) {
			int64_t left = begin + i * 1000000LL - now();

			if (left > 0)
				pause_us(left / 1000);
			if (i == 100)
				kill(first, SIGTERM);
			/* Of those that end here, one may be the first instance. */
			while (how == AFTERWARDS && second == first && (it = waitpid(-1, NULL, WNOHANG)) > 0)
				if (it == first)
					second = start(argv, null, null, null);
				else
					gone++;
			if (how == BESIDE && !claimed && says_claimed(log[0]))
				claimed = now();
			if (companion() == 0) {
				came[i] = now();
				results[i] = visit(7878);
				_exit(0);
			}
		}
		if (how == BESIDE && !claimed)
			die("the second instance never claimed the port");
		/* One that takes longer to end than all clients to come has refused them all, and is still to be waited for. */
		for (gone += second != first && how == AFTERWARDS; gone < visitors + (how != BELOW); gone++)
			wait(NULL);
		if (how == AFTERWARDS && second == first) {
			second = start(argv, null, null, null);
			until_answered(7878);
		}
		for (int i = 0; i < visitors; i++) {
			refused += results[i] == -1;
			late += results[i] == -1 && claimed && came[i] > claimed;
			cut += results[i] == -2;
			longest = results[i] > longest ? results[i] : longest;
		}
		printf("clients %d %d %d %ld\n", refused, late, cut, (long)longest);
		/* The parent hands a TERM on. */
		kill(second, how == BELOW ? SIGKILL : SIGTERM);
		waitpid(second, NULL, 0);
		close(log[0]);
	}
}

/* An app beside a keeper, or beside none ("-"): KEEPER... ,, APP.... 600 clients come, one a millisecond; the 100th sees the app get `signal`,
 * and 200 ms later it is started again, as an engine does. `kept REFUSED CUT_OFF LONGEST_NS` */
static void kept_mode(int rounds, int signal_number, char **keeper)
{
	const int visitors = 600;
	int64_t *results = mmap(NULL, visitors * sizeof *results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t kept = 0;
	char **app = keeper;

	while (*app && strcmp(*app, ",,"))
		app++;
	if (!*app || !app[1])
		die("kept: KEEPER... ,, APP...");
	*app++ = NULL;
	if (strcmp(*keeper, "-"))
		kept = start(keeper, null, null, null);
	for (int round = 0; round < rounds; round++) {
		int refused = 0, cut = 0;
		int64_t begin, longest = 0;
		pid_t pid = start(app, null, null, null);

		until_answered(7878);
		begin = now();
		for (int i = 0; i < visitors; i++) {
			int64_t left = begin + i * 1000000LL - now();

			if (left > 0)
				pause_us(left / 1000);
			if (i == 100)
				kill(pid, signal_number);
			if (i == 300)
				pid = start(app, null, null, null);
			if (companion() == 0) {
				results[i] = visit(7878);
				_exit(0);
			}
		}
		for (int left = visitors + 1; left > 0; left--)
			wait(NULL);
		for (int i = 0; i < visitors; i++) {
			refused += results[i] == -1;
			cut += results[i] == -2;
			longest = results[i] > longest ? results[i] : longest;
		}
		printf("kept %d %d %ld\n", refused, cut, (long)longest);
		end(pid);
	}
	if (kept)
		end(kept);
}

static int number(const char *text)
{
	char *rest;
	long value = strtol(text, &rest, 10);

	if (!*text || *rest || value < 0 || value > 100000000)
		die("%s: not a number", text);
	return value;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	int first = argc > 2 && strcmp(mode, "pause-app") ? number(argv[2]) : 0;

	/* The apps of the tests: they run below whoever is measured. */
	if (!strcmp(mode, "signal-app"))
		signal_app();
	if (!strcmp(mode, "orphan-app"))
		orphan_app(first);
	if (!strcmp(mode, "boot-app") && argc > 3)
		boot_app(first, argv[3]);
	if (!strcmp(mode, "calls-app") && argc > 3)
		calls_app(first, number(argv[3]));
	if (!strcmp(mode, "profiled") && argc > 3)
		profiled(argv + 3);
	if (!strcmp(mode, "passing-parent") && argc > 3)
		passing_parent(first, argv + 3);
	if (!strcmp(mode, "bare-waiter"))
		bare_waiter(first);
	if (!strcmp(mode, "pause-app"))
		for (;;)
			pause();
	srand(1);
	signal(SIGPIPE, SIG_IGN);
	own_network();
	if (!strcmp(mode, "spawn"))
		spawn_mode(first, argv + 3);
	else if (!strcmp(mode, "spawn-crowd") && argc > 4) {
		with_sockets(number(argv[3]));
		spawn_mode(first, argv + 4);
	} else if (!strcmp(mode, "spawn-among") && argc > 4) {
		with_programs(number(argv[3]));
		spawn_mode(first, argv + 4);
	} else if (!strcmp(mode, "freed"))
		freed_mode(first, argv + 3);
	else if (!strcmp(mode, "poll") && argc > 3)
		poll_mode(first, number(argv[3]));
	else if (!strcmp(mode, "waiting"))
		waiting_mode(first, argv + 3);
	else if (!strcmp(mode, "idle"))
		idle_mode(first, argv + 3);
	else if (!strcmp(mode, "signal"))
		signal_mode(first, argv + 3);
	else if (!strcmp(mode, "orphans") && argc > 4)
		orphans_mode(first, number(argv[3]), argv + 4);
	else if (!strcmp(mode, "clients-after"))
		clients_mode(first, AFTERWARDS, argv + 3);
	else if (!strcmp(mode, "clients-below"))
		clients_mode(first, BELOW, argv + 3);
	else if (!strcmp(mode, "clients"))
		clients_mode(first, BESIDE, argv + 3);
	else if (!strcmp(mode, "kept") && argc > 4)
		kept_mode(first, number(argv[3]), argv + 4);
	else
		die("modes: see bench/run");
	return 0;
}
