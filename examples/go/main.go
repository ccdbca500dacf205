// A static server that does not know about reberth. It reads PORT, answers with its name, and answers "ok" on /health.
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	name, port := os.Getenv("INSTANCE"), os.Getenv("PORT")
	if name == "" {
		name, _ = os.Hostname()
	}
	if port == "" {
		port = "7878"
	}
	http.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })

	server := &http.Server{Addr: ":" + port}
	ended := make(chan struct{})
	go func() {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		<-stop
		// Finish pending requests before exiting.
		server.Shutdown(context.Background())
		close(ended)
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-ended
}
