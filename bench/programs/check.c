/* The limit for a health check: what 40 lines of C can do. One connect, one request, one check of the status; no options, no timeout.
 *
 *     check PORT
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static const char request[] =
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: check\r\nAccept: */*\r\nConnection: close\r\n\r\n";
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	char answer[1024];
	size_t got = 0;
	ssize_t n;
	int fd;

	if (argc != 2)
		return 1;
	to.sin_port = htons(atoi(argv[1]));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to))
		return 1;
	if (write(fd, request, sizeof request - 1) != sizeof request - 1)
		return 1;
	while (got < 12 && (n = read(fd, answer + got, sizeof answer - got)) > 0)
		got += n;
	if (got < 12 || memcmp(answer, "HTTP/1.", 7) || (answer[9] != '2' && answer[9] != '3'))
		return 1;
	write(1, "healthy\n", 8);
	return 0;
}
