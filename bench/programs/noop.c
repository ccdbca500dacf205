/* The floor: a program that does nothing. What starting it costs, starting anything costs. */
int main(void) { return 0; }
