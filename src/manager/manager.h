/* hulld's heart: what handlers get. */
#ifndef MANAGER_MANAGER_H
#define MANAGER_MANAGER_H

#include "base/host/event_loop.h"
#include "manager/operation/operation.h"
#include "manager/place.h"
#include "manager/store/store.h"

struct api_server;
struct lifetime; /* instance/instance.h */
struct vm_watch; /* instance/vm/watch.h: connections to running VMs */

struct manager {
    struct place place;
    struct event_loop *loop;
    struct documents *documents;
    struct operations *operations;
    struct api_server *server;
    struct vm_watch *vms;
    struct lifetime *lifetime;
};

/* To all who listen: adds "time". Takes the event over. */
void manager_event(struct manager *manager, json_t *event);

/* Now, as documents have it: "2026-01-01T12:00:00Z". */
void manager_time(char out_text[32]);

/* main() of hulld; returns the exit status. */
int manager_main(int argc, char **argv);

#endif
