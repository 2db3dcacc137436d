/* hull-agent: does in a guest what its host asks for; protocol.md. */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#define AGENT_PORT 1023 /* of vsock */

/* main() of hull-agent. Returns the exit status. */
int agent_main(int argc, char **argv);

#endif
