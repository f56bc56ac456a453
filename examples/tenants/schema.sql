-- The application's own tables: an ERP in which every row belongs to a tenant.
CREATE TABLE tenants (
    id    bigint PRIMARY KEY,
    name  text NOT NULL
);

CREATE TABLE products (
    id         bigserial PRIMARY KEY,
    tenant_id  bigint NOT NULL REFERENCES tenants,
    sku        text NOT NULL,
    name       text NOT NULL,
    price      numeric(10, 2) NOT NULL,
    quantity   integer NOT NULL
);

CREATE TABLE stock_adjustments (
    id          bigserial PRIMARY KEY,
    tenant_id   bigint NOT NULL REFERENCES tenants,
    product_id  bigint NOT NULL REFERENCES products,
    delta       integer NOT NULL,
    reason      text NOT NULL
);

CREATE TABLE tenant_notifications (
    id          bigserial PRIMARY KEY,
    tenant_id   bigint NOT NULL REFERENCES tenants,
    title       text NOT NULL,
    body        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Laravel's table of notifications to users, as `php artisan make:notifications-table` makes it.
CREATE TABLE notifications (
    id               uuid PRIMARY KEY,
    type             varchar(255) NOT NULL,
    notifiable_type  varchar(255) NOT NULL,
    notifiable_id    bigint NOT NULL,
    data             text NOT NULL,
    read_at          timestamp(0),
    created_at       timestamp(0),
    updated_at       timestamp(0)
);
