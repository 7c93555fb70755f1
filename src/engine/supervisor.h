/*
 * What a service manager is told (sd_notify(3)): that the replicator has begun, what it does, and that
 * its threads go round, for its watchdog.  Where nobody listens ($NOTIFY_SOCKET) nothing happens.
 */
#ifndef TAILWATER_SUPERVISOR_H
#define TAILWATER_SUPERVISOR_H

/* The pipeline is ours: what comes now, the initial copy too, may take as long as it takes. */
void supervisor_ready(void);

/* A sentence for systemctl status. */
void supervisor_say(const char *text);

void supervisor_stopping(void);

/* About once a second: keeps the watchdog quiet while base/pulse.h says that all is going. */
void supervisor_tick(void);

#endif
