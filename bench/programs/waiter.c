/* The minimum that can wait for a port on the kernel's events: it subscribes to the end of every TCP socket, tries to bind, sleeps until
 * an event, and tries again. The time it takes is the kernel's: the limit, as noop.c is the limit of a start.
 *
 *     waiter PORT
 */
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_nl news = { .nl_family = AF_NETLINK,
				    .nl_groups = 1 << (SKNLGRP_INET_TCP_DESTROY - 1) | 1 << (SKNLGRP_INET6_TCP_DESTROY - 1) };
	struct sockaddr_in6 at = { .sin6_family = AF_INET6 };
	int events = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), off = 0, on = 1;
	/* One socket for all tries: if each try closed its own, that would be an event and lead to the next try, endlessly. */
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char text[4096];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc != 2 || events < 0 || bind(events, (struct sockaddr *)&news, sizeof news) || fd < 0)
		return 1;
	at.sin6_port = htons(atoi(argv[1]));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
	for (int told = 0; bind(fd, (struct sockaddr *)&at, sizeof at); told = 1) {
		if (!told)
			(void)!write(2, "waiting\n", 8);
		if (recv(events, text, sizeof text, 0) < 0)
			return 1;
	}
	if (listen(fd, 4096))
		return 1;
	for (;;)
		pause();
}
