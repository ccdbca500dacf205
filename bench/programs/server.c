/* An app that boots for a while, and then answers every request with 200, one after another. It is C because its start is part of the
 * time that clients wait, and its answer part of the time that a health check takes.
 *
 *     server BOOT_MS PORT      creates its own socket
 *     server BOOT_MS fd:N      serves a socket that it is given
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int listen_on(int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	return bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096) ? -1 : fd;
}

int main(int argc, char **argv)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
	struct timespec boot;
	char request[2048];
	int fd;

	if (argc != 3)
		return 1;
	boot = (struct timespec){ atoi(argv[1]) / 1000, atoi(argv[1]) % 1000 * 1000000L };
	nanosleep(&boot, NULL);
	fd = strncmp(argv[2], "fd:", 3) ? listen_on(atoi(argv[2])) : atoi(argv[2] + 3);
	if (fd < 0)
		return 1;
	for (;;) {
		int client = accept(fd, NULL, NULL);

		if (client < 0)
			continue;
		if (read(client, request, sizeof request) > 0)
			(void)!write(client, answer, sizeof answer - 1);
		close(client);
	}
}
