-- What is leased stands in an index of its own: a claim that looks for what is due does not walk over all that is under
-- way, as it would in a flood, once for each handful that it finds.
DROP INDEX items_listen.delivery_due;
CREATE INDEX delivery_due ON items_listen.delivery (endpoint, due_at, id) WHERE state = 'pending' AND lease IS NULL;
CREATE INDEX delivery_leased ON items_listen.delivery (endpoint, lease_until) WHERE state = 'pending' AND lease IS NOT NULL;
